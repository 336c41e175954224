"""How far can this neural network be trusted?

Attacks bound its robust accuracy from above, proofs from below; its uncertainty and checks of the evaluation stand
beside them. Names are imported when they are first used: `import trustbound` itself needs no torch.

>>> import trustbound as tb
>>> str(tb.Threat.parse("linf:8/255"))
'linf:8/255'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trustbound.errors import (
    InputError,
    MissingDependencyError,
    RecordError,
    TrustboundError,
    UnsoundError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from trustbound.attacks import AttackResult, SharedPerturbation, attack, fit_perturbation
    from trustbound.audits import audit
    from trustbound.certificates import (
        CertificationResult,
        CleverEstimate,
        LipschitzResult,
        OutputRanges,
        Property,
        VerificationResult,
        certify,
        clever,
        lipschitz,
        output_ranges,
        verify,
    )
    from trustbound.data import LabelledSet, load_data
    from trustbound.exports import export
    from trustbound.hardening import train
    from trustbound.model import Adaptation, Model, ablate, load_model, save_model, smooth
    from trustbound.model.wrapping import wrap
    from trustbound.record import AuditRecord, Box
    from trustbound.report import write as write_report
    from trustbound.threat import Threat

__version__ = "0.1.0"

_HOMES = {
    "Adaptation": "trustbound.model",
    "AuditRecord": "trustbound.record",
    "Box": "trustbound.record",
    "AttackResult": "trustbound.attacks",
    "LabelledSet": "trustbound.data",
    "Model": "trustbound.model",
    "CertificationResult": "trustbound.certificates",
    "CleverEstimate": "trustbound.certificates",
    "LipschitzResult": "trustbound.certificates",
    "OutputRanges": "trustbound.certificates",
    "Property": "trustbound.certificates",
    "SharedPerturbation": "trustbound.attacks",
    "Threat": "trustbound.threat",
    "VerificationResult": "trustbound.certificates",
    "ablate": "trustbound.model",
    "attack": "trustbound.attacks",
    "audit": "trustbound.audits",
    "certify": "trustbound.certificates",
    "clever": "trustbound.certificates",
    "export": "trustbound.exports",
    "fit_perturbation": "trustbound.attacks",
    "lipschitz": "trustbound.certificates",
    "load_data": "trustbound.data",
    "load_model": "trustbound.model",
    "output_ranges": "trustbound.certificates",
    "save_model": "trustbound.model",
    "smooth": "trustbound.model",
    "train": "trustbound.hardening",
    "verify": "trustbound.certificates",
    "wrap": "trustbound.model",
    "write_report": "trustbound.report:write",
}

__all__ = [
    "Adaptation",
    "AttackResult",
    "AuditRecord",
    "Box",
    "CertificationResult",
    "CleverEstimate",
    "InputError",
    "LabelledSet",
    "LipschitzResult",
    "MissingDependencyError",
    "Model",
    "OutputRanges",
    "Property",
    "RecordError",
    "SharedPerturbation",
    "Threat",
    "TrustboundError",
    "UnsoundError",
    "UnsupportedError",
    "VerificationResult",
    "ablate",
    "attack",
    "audit",
    "certify",
    "clever",
    "export",
    "fit_perturbation",
    "lipschitz",
    "load_data",
    "load_model",
    "output_ranges",
    "save_model",
    "smooth",
    "train",
    "verify",
    "wrap",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trustbound' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
