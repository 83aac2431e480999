"""Seconds of collectives on the tiers of a machine: algorithms, expert exchange, fitted constants."""
