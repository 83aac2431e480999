"""Is my speed normal? A user's run against the prediction for its plan: range, gap, what to change, a row to keep."""
