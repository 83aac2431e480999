"""The fabric as it is wired: links, routes, flows, collectives as traffic, failures and what-if questions.

In: a description of the wiring. Out: rates, loads and seconds of traffic on its links.
"""
