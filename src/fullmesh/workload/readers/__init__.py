"""Readers of models: every one ends in a :class:`~fullmesh.workload.ModelSpec`."""
