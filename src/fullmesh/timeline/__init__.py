"""A training step as it would run: schedules, replay, analysis, traces, and closed forms of the same schedules.

``costs`` and ``closed_form`` need NumPy alone; everything that replays loads compiled kernels, so import those modules
where they are used.
"""
