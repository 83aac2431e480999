"""Fits profiles to measurements: operators, collectives, effects of published runs.

In: measured tables, points and published results. Out: dated profile files that :mod:`fullmesh.cost` reads.
"""
