"""Published results as cases of the model: the table, what each row measured, its machine, model and plan.

In: rows of results. Out: cases that the cost model prices like any plan.
"""
