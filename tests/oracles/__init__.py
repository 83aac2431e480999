"""Plain twins of compiled code, and checkers, that only tests use."""
