"""What a plan comes to: step time with bounds and interval, memory, waterfall, energy and money.

In: a model, a machine and plans. Out: columns for many plans, one record for one.
"""
