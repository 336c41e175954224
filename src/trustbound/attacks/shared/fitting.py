"""Fit one perturbation to many examples: the public call, and what audits fit with."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.searching.loop import reached_by
from trustbound.attacks.searching.problem import Problem, Unkept
from trustbound.attacks.searching.request import Request, check_clean, clean_outputs, fits, requested
from trustbound.attacks.shared.perturbation import SharedAttack, SharedPerturbation, around_nothing
from trustbound.errors import InputError
from trustbound.threat import Access, Neighbourhood, Objective, Random, Threat
from trustbound.threat.binding import bind


def fit_perturbation(
    name: str | SharedAttack,
    model: Any,
    inputs: Tensor | np.ndarray[Any, Any],
    labels: Tensor | np.ndarray[Any, Any],
    threat: Threat | str,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    budget: int | None = None,
    ids: Tensor | np.ndarray[Any, Any] | None = None,
    **params: Any,
) -> SharedPerturbation:
    """Fit one perturbation for all inputs to some of them; `attack` scores it on others.

    Parameters
        name        registry name of an attack that is shared, or one of your own.
        inputs      (B, *F) in the model's box, a tensor or an array, with
        labels      (B,) int64: what it is fitted to.
        generator   one 63-bit key is drawn from it; without one the key is 0.
        seed        stands for a generator with this seed.
        budget      forwards allowed per example, those of the clean input and of the last check included.
        ids         (B,) identities for the per-example randomness, by default 0..B-1.
        params      the attack's own parameters.

    Raises      InputError and UnsupportedError as `attack` does, before the first model call; InputError for an attack
                that changes each example by itself.

    >>> model = torch.nn.Linear(2, 2)
    >>> inputs, labels = torch.rand(20, 2), torch.zeros(20, dtype=torch.int64)
    >>> shared = fit_perturbation("uap", model, inputs[:10], labels[:10], "l2:0.3")
    >>> from trustbound.attacks import attack
    >>> attack(shared, model, inputs[10:], labels[10:], "l2:0.3").success.shape
    torch.Size([10])
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
        ids=ids,
        params=params,
    )
    if isinstance(asked.method, SharedPerturbation):
        raise InputError("what fits a perturbation is wanted, e.g. 'uap'; got one that is fitted. `attack` scores it.")
    if not fits(asked.method):
        raise InputError(
            f"fit_perturbation takes an attack that all inputs share (uap, or one of your own with `shared = True`); "
            f"{asked.name} changes each example by itself. Use attack for it."
        )
    return fitted(asked)


def fitted(asked: Request) -> SharedPerturbation:
    """The perturbation of a request's method, fitted to all of the request's examples."""
    started = time.perf_counter()
    everyone = slice(0, len(asked))
    with asked.oracle(everyone, key=asked.key) as oracle:
        with oracle.booking("clean"):
            clean = clean_outputs(oracle, asked.inputs)
            check_clean(asked.model.task, clean, asked.labels)
            objective, view = bind(asked.threat.goal, asked.model.task, asked.labels, clean.shape[1])
            clean = oracle.look_through(view, clean)
            search_rows = torch.arange(len(asked), device=clean.device)
            reached = reached_by(oracle, objective, asked.inputs, clean, search_rows)
        neighbourhood = asked.threat.perturbations.around(asked.inputs, asked.model.box)
        random = Random(asked.key, asked.ids)
        shared = fit(asked.name, asked.method, oracle, neighbourhood, objective, random, reached, asked.threat)
    return dataclasses.replace(shared, cost=dataclasses.replace(shared.cost, seconds=time.perf_counter() - started))


def fit(
    name: str,
    method: SharedAttack,
    oracle: Oracle,
    neighbourhood: Neighbourhood,
    objective: Objective,
    random: Random,
    reached: Tensor,
    threat: Threat,
) -> SharedPerturbation:
    """Fit to the examples of a neighbourhood that are `reached` (B,) by nothing yet; look once more at what it does."""
    inputs, model = neighbourhood.inputs, oracle.model
    search_rows = torch.arange(len(inputs), device=inputs.device)
    rows = (~reached).nonzero()[:, 0]
    problem = Problem(
        oracle=oracle,
        best_so_far=Unkept(inputs, seeks="any"),
        neighbourhood=neighbourhood,
        objective=objective,
        random=random,
        search_rows=search_rows,
    ).select(rows)
    oracle.passes.reserve(oracle.price)  # for the last check
    ball = around_nothing(threat, model.box, inputs)
    perturbation = method.fit(problem, ball).detach() if len(rows) else torch.zeros_like(inputs[0])
    refused = oracle.passes.refused(search_rows)
    ended = 0 if refused is None else int(refused[rows].sum())
    oracle.passes.release()
    shared = SharedPerturbation(
        method=name, perturbation=perturbation, threat=threat, box=model.box, fitted=len(inputs)
    )
    moved = torch.zeros_like(rows, dtype=torch.bool)
    if len(rows):
        points = shared.apply(problem.inputs)
        with oracle.booking("recheck"):
            outputs = oracle.outputs(points, problem.search_rows)
            moved = reached_by(oracle, problem.objective, points, outputs, problem.search_rows)
    said = (f"the budget of {oracle.passes.budget} forwards ended the fitting to {ended} examples",) if ended else ()
    forwards, backwards = oracle.forwards.clone(), oracle.backwards.clone()
    return dataclasses.replace(
        shared,
        fooled=float(moved.double().mean()) if len(rows) else 0.0,
        forwards=forwards,
        backwards=backwards,
        queries=forwards if oracle.access < Access.GRADIENTS else torch.zeros_like(forwards),
        cost=oracle.cost,
        events=(*oracle.events, *said),
    )


def half(key: int, ids: Tensor) -> Tensor:
    """Rows of half of the examples, drawn by who they are, in their old order.

    >>> half(0, torch.arange(6)).shape
    torch.Size([3])
    """
    lot = Random(key, ids).stream("fitted half").uniform((1,), restart=0, draw=0, dtype=torch.float64)[:, 0]
    return lot.argsort(stable=True)[: len(ids) // 2].sort().values
