"""Seconds of single kernels on one device: profiles, the laws behind them, routing of rows to experts."""
