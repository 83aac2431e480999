"""Seconds and bytes of a rank's work on a machine.

In: stages of plans on a machine, and fitted profiles. Out: columns of seconds and bytes, one row a plan or a stage.
"""
