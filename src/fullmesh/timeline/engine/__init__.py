"""Replay of a task graph: compiled kernels, one for each question."""
