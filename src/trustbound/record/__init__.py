"""Evidence and results as plain frozen records, without torch; the store keeps them."""

from trustbound.record.audit import AuditRecord
from trustbound.record.binomial import binomial_interval
from trustbound.record.box import Box
from trustbound.record.cost import Cost

__all__ = ["AuditRecord", "Box", "Cost", "binomial_interval"]
