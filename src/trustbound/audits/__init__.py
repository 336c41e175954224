"""The question asked of a model: probes, the bracket search, the curve, the sandwich, compare and gate."""

from trustbound.audits.run import audit

__all__ = ["audit"]
