"""What is under test, as whoever carries out units holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.work_units.unit import WorkUnit
from trustbound.certificates.graph import Graph, read
from trustbound.certificates.methods.tree_reading import read_trees
from trustbound.certificates.methods.trees import veritas
from trustbound.certificates.registry import CERTIFIERS
from trustbound.data.labelled import LabelledSet
from trustbound.errors import UnsupportedError
from trustbound.model.float64_copy import Double, double
from trustbound.model.wrapping import Model
from trustbound.tasks.view import View
from trustbound.threat import Access, Threat

#: Examples that the float64 copy and the list of operations are tried on.
FEW = 2


@dataclass(frozen=True, eq=False)
class Readable:
    """A model's list of operations, or why there is none: a finding, not a failure."""

    graph: Graph | None
    refusal: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model, the examples that it is asked about, and the threats by their names.

    What is made of them, the float64 copy and the list of operations, is made where it is first used: a subject that
    is sent elsewhere travels without.
    """

    model: Model
    data: LabelledSet
    threats: Mapping[str, Threat]

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def about(self, data: LabelledSet, threats: Mapping[str, Threat]) -> Subject:
        """The same model, whose list of operations is read already where it was, about other examples."""
        other = replace(self, data=data, threats=threats)
        for name in ("readable", "trees", "double"):
            if name in vars(self):
                vars(other)[name] = vars(self)[name]
        return other

    def inputs(self, positions: Tensor) -> Tensor:
        """Examples at positions, on the model's device, in the dtype that is searched in."""
        return self.data.batch(positions).to(self.model.device, self.model.input_dtype)

    def labels(self, positions: Tensor) -> Tensor:
        """Their labels, on the model's device."""
        return self.data.labels[positions].to(self.model.device)

    def ids(self, positions: Tensor) -> Tensor:
        """Their identities: row numbers of the whole set."""
        return torch.as_tensor(self.data.indices, dtype=torch.int64)[positions]

    def oracle(
        self,
        unit: WorkUnit,
        *,
        access: Access = Access.GRADIENTS,
        silenced: Tensor | None = None,
        view: View | None = None,
    ) -> Oracle:
        """The window to the model for one unit: seeded, and with names for what the model may raise."""
        return Oracle(
            self.model,
            examples=len(unit.positions),
            access=access,
            batch_size=unit.batch_size,
            key=unit.seed(),
            task=unit.step,
            names=self.ids(unit.rows),
            silenced=silenced,
            view=view,
        )

    @cached_property
    def double(self) -> Double:
        """The float64 copy of a model in float32."""
        if self.model.precision != torch.float32:
            return Double(None)
        return double(self.model, self.inputs(self._few))

    @cached_property
    def readable(self) -> Readable:
        """The model as a list of operations, which proofs are about."""
        if self.model.task.no_proof:
            return Readable(None, f"no proof: {self.model.task.no_proof}")
        if self.model.shows != "gradients":
            return Readable(None, f"no proof: only {self.model.shows} of the model are seen, and no layers to bound")
        try:
            return Readable(read(self.model, self.inputs(self._few), maps=self.model.task.maps))
        except UnsupportedError as error:
            text = str(error)
            return Readable(None, text if text.startswith("no proof") else f"no proof: {text}")
        except Exception as error:  # the model's own, under export or in float64: a finding too
            first = (str(error).splitlines() or [""])[0] or "no message"
            return Readable(None, f"no proof: the model cannot be read, which raised {type(error).__name__}: {first}")

    @property
    def graph(self) -> Graph:
        """The list of operations, of a model that has one.

        Raises      UnsupportedError that says why there is none.
        """
        if self.readable.graph is None:
            raise UnsupportedError(self.readable.refusal)
        return self.readable.graph

    @cached_property
    def trees(self) -> str:
        """Why nothing can be proven of the trees behind a predictor; empty where they can be read."""
        try:
            veritas()
            read_trees(self.model, self.inputs(self._few))
        except UnsupportedError as error:
            return str(error)
        return ""

    def bounded(self, certifier: str) -> Graph | Model:
        """What a certifier bounds: the list of operations, or the model itself.

        Raises      UnsupportedError that says why there is no list.
        """
        return self.graph if CERTIFIERS.find(certifier).reads else self.model

    @property
    def _few(self) -> Tensor:
        return torch.arange(min(FEW, len(self.data)))
