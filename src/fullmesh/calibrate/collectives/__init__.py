"""Collective profiles fitted to measured points, for the closed forms and for the curves of the wired fabric."""
