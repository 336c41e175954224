"""One attack on one batch of examples: the public call."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trustbound.attacks.model_access.logit_scale import logit_scales
from trustbound.attacks.model_access.oracle import price_of
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.searching.loop import Attack, AttackResult, Watch, reached_by, search
from trustbound.attacks.searching.request import Request, check_clean, clean_outputs, donated, fits, requested
from trustbound.attacks.shared.fitting import fitted, half
from trustbound.errors import InputError
from trustbound.record.cost import Cost
from trustbound.threat import Random, Threat
from trustbound.threat.binding import bind


def build(name: str, **params: Any) -> Attack:
    """An attack by its registry name, with its parameters.

    >>> build("pgd", steps=10).steps
    10
    """
    return cast(Attack, ATTACKS.build(name, **params))


def attack(
    name: str | Attack,
    model: Any,
    inputs: Tensor | np.ndarray[Any, Any],
    labels: Tensor | np.ndarray[Any, Any],
    threat: Threat | str,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    budget: int | None = None,
    stop_early: bool = True,
    compile: bool = False,
    ids: Tensor | np.ndarray[Any, Any] | None = None,
    donors: Tensor | None = None,
    watch: Watch | None = None,
    **params: Any,
) -> AttackResult:
    """Attack examples and return what was found, each success checked by a fresh forward.

    Parameters
        name        registry name, or an attack of your own.
        model       whatever `wrap` takes.
        inputs      (B, *F) in the model's box, a tensor, or an array for arrays in what is found; what is outside by
                    rounding (1e-6 of its width) is put on the limit.
        labels      (B,) int64; of another task than classification what that takes.
        threat      a Threat or its text form.
        generator   one 63-bit key is drawn from it; without one the key is 0.
        seed        stands for a generator with this seed.
        batch_size  rows per model call.
        budget      forwards allowed per example, those of the clean input and of the last check included.
        stop_early  stop an example at its first success.
        compile     compile the gradient function: seconds once, then faster on full batches.
        ids         (B,) identities for the per-example randomness, by default 0..B-1.
        donors      (D, *F) inputs of the data from which a search without scores may start.
        params      the attack's own parameters: steps, step_size, restarts, loss …

    One that fits a perturbation for all inputs (`uap`) is fitted to half of the examples, drawn at random, and scored
    on all; `found.fitted` tells the halves apart. `fit_perturbation` fits one to score on examples of your choice.

    Raises      InputError for examples, parameters or options that cannot be used, UnsupportedError for a threat
                that the attack cannot serve; both before the first model call. ModelError when the model raises.

    >>> model = torch.nn.Linear(2, 2)
    >>> found = attack("pgd", model, torch.rand(3, 2), torch.zeros(3, dtype=torch.int64), "linf:0.5", steps=3)
    >>> found.adversarial.shape, found.cost.backwards <= 9
    (torch.Size([3, 2]), True)
    """
    asked = requested(
        name,
        model,
        inputs,
        labels,
        threat,
        generator=generator,
        seed=seed,
        batch_size=batch_size,
        budget=budget,
        compile=compile,
        ids=ids,
        params=params,
    )
    if not isinstance(stop_early, bool) or not (watch is None or callable(watch)):
        raise InputError(
            f"`stop_early` must be True or False and `watch` a function or None; got {stop_early!r} and {watch!r}"
        )
    given = None if donors is None else donated(donors, asked.inputs, asked.model)
    if fits(asked.method):
        found = in_halves(asked)
    else:
        found = searched(asked, stop_early=stop_early, donors=given, watch=watch)
    return found.numpy() if isinstance(inputs, np.ndarray) else found


def searched(
    asked: Request, *, stop_early: bool = True, donors: Tensor | None = None, watch: Watch | None = None
) -> AttackResult:
    """Run an attack on every example of a request, so many at a time."""
    inputs, labels, threat = asked.inputs, asked.labels, asked.threat
    # Where nothing is dropped, whole batches stay in the cache; where it is, many rows keep calls full.
    share = asked.batch_size if not stop_early else max(asked.batch_size, 1024)
    parts = []
    for first in range(0, len(asked), share):
        rows = slice(first, first + share)
        with asked.oracle(rows, key=asked.key + first) as oracle:
            with oracle.booking("clean"):
                clean = clean_outputs(oracle, inputs[rows])
                check_clean(asked.model.task, clean, labels[rows])
                objective, view = bind(threat.goal, asked.model.task, labels[rows], clean.shape[1])
                clean = oracle.look_through(view, clean)
                place = torch.arange(len(clean), device=clean.device)
                reached = reached_by(oracle, objective, inputs[rows], clean, place)
            parts.append(
                search(
                    asked.method,
                    oracle,
                    threat.perturbations.around(inputs[rows], asked.model.box),
                    objective,
                    Random(asked.key, asked.ids[rows]),
                    reached=reached,
                    logit_scale=logit_scales(clean),
                    donors=donors,
                    stop_early=stop_early,
                    watch=watch,
                )
            )
    return joined(parts)


def in_halves(asked: Request) -> AttackResult:
    """Fit a shared perturbation to one half of the examples, drawn at random by who they are; score it on all."""
    if len(asked) < 2:
        raise InputError(
            f"{asked.name} fits to half of the examples and is scored on the others: it takes at least 2; got 1. Give "
            "more, or fit_perturbation on others and pass what it returns here."
        )
    ours, evaluations = half(asked.key, asked.ids), 3 * price_of(asked.model)  # clean, perturbed, and the last check
    limit = None if asked.budget is None else asked.budget - evaluations
    shared = fitted(asked.select(ours).with_(budget=limit))
    mask = torch.zeros(len(asked), dtype=torch.bool, device=asked.inputs.device)
    mask[ours] = True
    limit = None if asked.budget is None else evaluations
    found = searched(asked.with_(method=shared, budget=limit))
    counts = {}
    for name in ("forwards", "backwards", "queries"):
        counts[name] = getattr(found, name).clone()
        counts[name][ours.to(counts[name].device)] += getattr(shared, name)
    return dataclasses.replace(
        found,
        **counts,
        fitted=mask,
        perturbation=shared.perturbation,
        cost=shared.cost + found.cost,
        events=(*shared.events, *found.events),
    )


def joined(parts: list[AttackResult]) -> AttackResult:
    """The rows of several searches, one after another."""
    if len(parts) == 1:
        return parts[0]
    tensors = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(AttackResult)
        if isinstance(getattr(parts[0], field.name), Tensor)
    }
    cost = sum((part.cost for part in parts), Cost())
    return AttackResult(**tensors, cost=cost, events=tuple(event for part in parts for event in part.events))
