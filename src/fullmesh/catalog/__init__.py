"""Facts and prices with provenance."""

from fullmesh.catalog.facts import Fact, FactBook, Parameter, load_facts, load_parameters, read_facts
from fullmesh.catalog.prices import Price, load_prices, price_per_device_hour

__all__ = [
    "Fact",
    "FactBook",
    "Parameter",
    "Price",
    "load_facts",
    "load_parameters",
    "load_prices",
    "price_per_device_hour",
    "read_facts",
]
