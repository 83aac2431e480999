"""Effects of the step and memory models fitted to published results, with every hold-out that is reported."""
