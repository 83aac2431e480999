"""What every test starts from: no terminal settings of the shell, none that parallel workers set for themselves."""

from __future__ import annotations

import os

for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)
