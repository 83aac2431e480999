"""Facts with provenance."""

from fullmesh.catalog.facts import Fact, FactBook, Parameter, load_facts, load_parameters, read_facts

__all__ = ["Fact", "FactBook", "Parameter", "load_facts", "load_parameters", "read_facts"]
