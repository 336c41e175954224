"""Faults planted in the certifiers, to see that the fuzz finds them.

Each is a context manager that puts one wrong piece in place of a right one, wherever the certificates hold it.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks import certificate_fuzz
from trustbound.certificates.registry import CERTIFIERS
from trustbound.model.wrapping import Model


@contextlib.contextmanager
def replaced(name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Put `change(old)` in place of a function in every module of the certificates that holds it by this name."""
    for row in CERTIFIERS:
        CERTIFIERS.load(row.name)
    found = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("trustbound.certificates") and callable(vars(module).get(name))
    ]
    assert found, f"the certificates hold nothing named {name}"
    kept = [vars(module)[name] for module in found]
    try:
        for module, old in zip(found, kept, strict=True):
            setattr(module, name, change(old))
        yield
    finally:
        for module, old in zip(found, kept, strict=True):
            setattr(module, name, old)


def unsound_relaxation() -> contextlib.AbstractContextManager[None]:
    """The upper line of a ReLU too low by half, so that it cuts through what it should lie above."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def relax_activation(*given: Any) -> Any:
            found = old(*given)
            return replace(found, shift=found.shift / 2)

        return relax_activation

    return replaced("relax_activation", change)


def wrong_slope() -> contextlib.AbstractContextManager[None]:
    """Lower slopes of unstable ReLUs that optimisation has left above 1, so that they cut through the ReLU."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def sound_slopes(*given: Any) -> Any:
            return old(*given) * 1.5

        return sound_slopes

    return replaced("sound_slopes", change)


def forgotten_remainder() -> contextlib.AbstractContextManager[None]:
    """The planes of a product both at its middle, as if it were linear there."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def relax_product(*given: Any) -> Any:
            found = old(*given)
            middle = (found.floor + found.shift) / 2
            return replace(found, floor=middle, shift=middle)

        return relax_product

    return replaced("relax_product", change)


def low_shares() -> contextlib.AbstractContextManager[None]:
    """The plane above a softmax lower by a fiftieth, so that it cuts through what it should lie above."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def relax_softmax(*given: Any) -> Any:
            found = old(*given)
            return replace(found, shift=found.shift - 0.02)

        return relax_softmax

    return replaced("relax_softmax", change)


def forgotten_shift() -> contextlib.AbstractContextManager[None]:
    """The way back through a relaxation without what its upper line adds."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def _through_relaxation(*given: Any) -> Any:
            constant, below = old(*given)
            return torch.zeros_like(constant), below

        return _through_relaxation

    return replaced("_through_relaxation", change)


def no_range() -> contextlib.AbstractContextManager[None]:
    """Rounding counted as if no number could be too large for its type."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def disturbance(*given: Any) -> Any:
            summed, error = old(*given)
            return summed, None if error is None else error.masked_fill(~error.isfinite(), 0.0)

        return disturbance

    return replaced("disturbance", change)


def less_rounding(share: float) -> contextlib.AbstractContextManager[None]:
    """A share of what rounding may take."""

    def change(old: Callable[..., Any]) -> Callable[..., Any]:
        def disturbance(*given: Any) -> Any:
            summed, error = old(*given)
            return summed, None if error is None else torch.where(error.isfinite(), error * share, error)

        return disturbance

    return replaced("disturbance", change)


@contextlib.contextmanager
def unknown_is_proven() -> Iterator[None]:
    """A bound that is NaN read as proven: `not bound <= 0` in place of `bound > 0`."""
    old = certificate_fuzz.certify

    def certify(name: Any, model: Any, inputs: Any, labels: Any, threat: Any, **given: Any) -> Any:
        proof = old(name, model, inputs, labels, threat, **given)
        targets = threat.goal.bind(labels, 10**6).targets
        concerned = torch.ones_like(labels, dtype=torch.bool) if targets is None else targets != labels
        return replace(proof, certified=~(proof.margin <= proof.slack) & concerned)

    certificate_fuzz.certify = certify
    try:
        yield
    finally:
        certificate_fuzz.certify = old


@contextlib.contextmanager
def lost_in_place() -> Iterator[None]:
    """The first line that works in place is not seen by the reader, nor by whatever the reader compares with."""
    old = certificate_fuzz.read

    def read(model: Any, inputs: Any) -> Any:
        net = model.module if isinstance(model, Model) else model
        kept = list(net.lines)
        lost = next((place for place, line in enumerate(kept) if not re.match(r"\w+ = ", line)), None)
        if lost is None:
            return old(model, inputs)
        blind = copy.deepcopy(model)
        inner = blind.module if isinstance(blind, Model) else blind
        inner.compile_lines(kept[:lost] + kept[lost + 1 :])
        try:
            with torch.no_grad():
                blind(inputs.clone())
        except Exception:
            return old(model, inputs)
        return old(blind, inputs)

    certificate_fuzz.read = read
    try:
        yield
    finally:
        certificate_fuzz.read = old
