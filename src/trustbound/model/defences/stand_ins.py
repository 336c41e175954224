"""Stand-ins and draws that are declared in words, where no code of the defence's own declares them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.model.predictor import Predictor
from trustbound.model.wrapping import Model

_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda inputs: inputs,
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class StandIn:
    """A differentiable function by its name, in place of a module in the backward pass (BPDA).

    >>> StandIn("relu")(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse an unknown name."""
        if self.name not in _FUNCTIONS:
            raise InputError(f"a stand-in is one of {', '.join(_FUNCTIONS)}; got {self.name!r}")

    def __call__(self, inputs: Tensor) -> Tensor:
        """The same shape."""
        return _FUNCTIONS[self.name](inputs)


def declare(model: Model, *, draws: int | None = None, stand_ins: Sequence[str] = ()) -> None:
    """Add to what a model declares about its defence.

    Parameters
        draws       answers averaged per look, in place of the number that the model declares itself.
        stand_ins   "module.path=name", each beside those that the model declares itself, and before them.

    Raises      InputError for a module that the model does not have, a name that is none, a path given twice, or a
                model that has no modules.

    >>> from torch import nn
    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(nn.Sequential(nn.Linear(2, 2), nn.Hardtanh()))
    >>> declare(model, draws=4, stand_ins=["1=tanh"])
    >>> model.adaptation.draws, model.adaptation.stand_ins
    (4, {'1': StandIn(name='tanh')})
    """
    named: dict[str, StandIn] = {}
    for text in stand_ins:
        path, equals, name = text.rpartition("=")
        if not equals or not path:
            raise InputError(f"a stand-in is written MODULE=NAME, e.g. quantise=identity; got {text!r}")
        if path in named:
            raise InputError(f"a module has one stand-in; {path!r} was given two")
        _exists(model, path)
        named[path] = StandIn(name)
    own = model.adaptation
    model.adaptation = replace(own, draws=own.draws if draws is None else draws, stand_ins={**own.stand_ins, **named})


def _exists(model: Model, path: str) -> None:
    """Refuse a path that the model does not have, with the nearest that it has."""
    if isinstance(model.module, Predictor):
        raise InputError(
            f"a stand-in replaces a module of a torch network in the backward pass; {model.name} is a callable over "
            "arrays, which has none. Leave it out."
        )
    paths = [known for known, _ in model.module.named_modules() if known]
    if path not in paths:
        near = difflib.get_close_matches(path, paths, n=1)
        known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(paths[:12]) or 'no named modules'}"
        raise InputError(f"a stand-in names a module of the network; {model.name} has no {path!r}: {known}")
