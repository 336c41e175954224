"""A module read into one list of operations, checked against the module before any bound is believed."""

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.reading import read

__all__ = ["Graph", "read"]
