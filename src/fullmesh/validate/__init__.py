"""Predictions against everything measured: scores, the naive model, the gate, the page of results.

In: cases and profiles. Out: errors by row and group, and whether the recorded level holds.
"""
