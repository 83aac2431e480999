"""A plan laid on the timeline and on the wired links, beside the closed form that priced it.

In: an estimate. Out: the replayed step, and each of its collectives on the graph.
"""
