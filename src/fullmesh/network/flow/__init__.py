"""Rates and completion times of traffic on a graph: max-min fair shares, and the symmetry that makes them cheap."""
