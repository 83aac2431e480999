"""The device at hand: microbenchmarks, a profile, small training jobs predicted and then run.

In: a processor or an accelerator with PyTorch. Out: measured times beside predicted ones.
"""
