"""How results leave the program: number formats, fields (key, unit, label, format), files and tables of results.

In: results of any room, by what they declare here. Out: texts, flat rows, plain records, files that load again.
"""
