"""Which attacks an evaluation runs, on whom, in which order.

A suite is a list of stages. Each stage runs on the examples that are neither broken nor proven so far, those of
smallest margin first, as far as its share goes: after a good first stage, what breaks later ranks low. The shares
and numbers of `standard` were measured against the reference AutoAttack (`benchmarks/README.md`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trustbound.attacks.methods.margin_pgd import VARIED, Run
from trustbound.attacks.registry import find
from trustbound.errors import InputError, UnsupportedError
from trustbound.threat import Access, Threat


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One attack on a share of the examples.

    Parameters
        name        unique in the suite.
        attack      registry name; "margin" stands for `smooth-pgd` or `margin-pgd`, whichever was better on a
                    sample of this model.
        numbers     the attack's numbers.
        share       of the first stage's survivors, smallest margins first.
        least       examples at least, whatever the share.
        pays        a block that breaks at least this share of its examples is followed by the next block.
        control     a control runs on the control group alone, whatever was found before.
    """

    name: str
    attack: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    least: int = 32
    pays: float = 0.02
    control: bool = False


def _margin(name: str, share: float, *runs: Run, steps: int = 10, sharpness: tuple[float, ...] = (16.0,)) -> Stage:
    return Stage(
        name=name,
        attack="margin",
        share=share,
        numbers={"steps": steps, "runs": runs, "sharpness": sharpness},
    )


_FIRST = _margin("first", 1.0, Run())
*_KINDS, _POLISH = VARIED

SUITES: dict[str, tuple[Stage, ...]] = {
    "quick": (
        _FIRST,
        _margin("near", 0.3, Run(target=1), Run(start="random"), _POLISH),
        Stage(name="control-square", attack="square", numbers={"steps": 300}, control=True),
    ),
    "standard": (
        _FIRST,
        _margin("wide", 0.6, Run(target=1)),
        _margin("near", 0.2, Run(start="random"), Run(target=2)),
        _margin("last", 0.06, *VARIED, steps=20, sharpness=(16.0, 32.0)),
        Stage(name="control-apgd", attack="apgd", numbers={"steps": 50}, control=True),
        Stage(name="control-square", attack="square", numbers={"steps": 300}, control=True),
    ),
    "thorough": (
        _FIRST,
        _margin("wide", 1.0, Run(target=1), Run(start="random")),
        _margin("near", 0.6, Run(target=2), Run(target=3), Run(start="random", coarse=True)),
        _margin("last", 0.3, *_KINDS, *VARIED, steps=30, sharpness=(16.0, 32.0, 8.0)),
        Stage(name="apgd", attack="apgd", numbers={"steps": 100, "loss": "ce"}, share=0.5),
        Stage(name="apgd-t", attack="apgd-t", numbers={"steps": 100}, share=0.3),
        Stage(name="square", attack="square", numbers={"steps": 5000}, share=0.2),
        Stage(name="control-square", attack="square", numbers={"steps": 5000}, control=True),
    ),
    # Croce and Hein 2020, `standard`; FAB-T follows with the catalogue.
    "autoattack": (
        Stage(name="apgd-ce", attack="apgd", numbers={"steps": 100, "loss": "ce"}),
        Stage(name="apgd-t", attack="apgd-t", numbers={"steps": 100}),
        Stage(name="square", attack="square", numbers={"steps": 5000, "share": 0.8}),
        Stage(name="control-square", attack="square", numbers={"steps": 1000}, control=True),
    ),
}


#: What searches where no gradients show.
_SCORES = {
    "quick": Stage(name="square", attack="square", numbers={"steps": 500}),
    "standard": Stage(name="square", attack="square", numbers={"steps": 5000}),
    "thorough": Stage(name="square", attack="square", numbers={"steps": 5000, "restarts": 2}),
    "autoattack": Stage(name="square", attack="square", numbers={"steps": 5000, "share": 0.8}),
}


def suite(budget: str, threat: Threat) -> tuple[Stage, ...]:
    """The stages of a budget that can serve a threat.

    Raises      InputError for an unknown budget, UnsupportedError when no attack can serve the threat.

    >>> [stage.name for stage in suite("quick", Threat.parse("l1:3"))]
    ['first', 'near']
    """
    if budget not in SUITES:
        raise InputError(f"the budget must be one of {', '.join(SUITES)}; got {budget!r}")
    kept = tuple(stage for stage in SUITES[budget] if _serves(stage, threat))
    if threat.access is Access.SCORES and all(stage.control for stage in kept) and _serves(_SCORES[budget], threat):
        kept = (_SCORES[budget], *kept)
    if threat.allowed.norm == "l0" and budget in ("standard", "thorough") and threat.access is Access.GRADIENTS:
        kept = (*kept[:1], Stage(name="fmn", attack="fmn", numbers={"steps": 200}), *kept[1:])
    if not any(not stage.control for stage in kept):
        raise UnsupportedError(
            f"no attack of the budget {budget!r} serves {threat}; `trustbound list attacks` shows what each needs"
        )
    return kept


def _serves(stage: Stage, threat: Threat) -> bool:
    row = find("margin-pgd" if stage.attack == "margin" else stage.attack)
    return threat.access >= Access[row.needs.upper()] and threat.allowed.norm in row.norms
