"""Sweeps: one question for each point of a grid of models, machines and options, one row of a file for each answer.

read_grid      TOML or a mapping        Grid: points with their keys, and the Inputs that they share
Journal        rows kept so far         an append-only file that outlives a kill at any moment
answers        Inputs, points           rows as text, by processes of this machine or on Ray
Answerer       Inputs, a point          its row: the question, how it ended, the best plan with its figures
write_table    rows in the order asked  Parquet, DuckDB or CSV, whole or not at all
"""
