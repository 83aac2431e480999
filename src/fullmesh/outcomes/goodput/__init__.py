"""A whole training run: faults, recovery, checkpoints, spares, power and money around a step that is known.

In: an estimate of one plan, rates of faults, inputs with ranges. Out: days, goodput, losses, energy, money, each with
its spread: by closed form, by Monte Carlo over columns, or by replaying faults that happened.
"""
