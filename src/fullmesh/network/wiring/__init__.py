"""From a description to a graph of links: the builders of each kind of fabric, and the health of its parts."""
