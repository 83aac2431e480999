"""The pipeline from names to answers, and the comparison of machines that stands on it.

In: names, files and options. Out: results that the faces print.
"""
