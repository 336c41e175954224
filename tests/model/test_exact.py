"""Exact radii against scipy's optimisers and brute force; dyadic networks against any order and float64."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from trustbound.errors import InputError, UnsupportedError
from trustbound.model.dyadic import dyadic_network, exact_bits
from trustbound.model.exact import centre_classifier, linear_classifier, sphere_classifier
from trustbound.model.wrapping import wrap
from trustbound.record.box import Box


def _linear(seed, features=6, classes=3, box=(0.0, 1.0)):
    random = np.random.default_rng(seed)
    weight = random.normal(size=(classes, features)).astype(np.float32)
    weight[:, 0] = 0.5  # a feature that helps nobody
    exact = linear_classifier(weight, random.normal(size=classes) * 0.1, box=box)
    inputs = torch.from_numpy(random.random((5, features)).astype(np.float32))
    labels = exact.model(inputs).argmax(1)
    return exact, weight.astype(np.float64), inputs, labels


def _gaps(exact, weight, inputs, labels, row):
    bias = exact.model.module.linear.bias.detach().double().numpy()
    logits = weight @ inputs[row].double().numpy() + bias
    y = int(labels[row])
    return [(weight[j] - weight[y], logits[y] - logits[j]) for j in range(len(weight)) if j != y]


def _least(direction, margin, norm, room):
    """Independent answers: linear programmes for linf and l1, SLSQP for l2, all subsets for l0."""
    size = len(direction)
    if norm == "l0":
        gain = np.maximum(np.where(direction > 0, direction * room[1], direction * -room[0]), 0)
        for count in range(1, size + 1):
            if max(sum(gain[list(s)]) for s in itertools.combinations(range(size), count)) >= margin:
                return count
        return np.inf
    if norm == "l2":
        bounds = list(zip(-room[0], room[1], strict=True))
        start = np.clip(direction * margin / (direction @ direction), -room[0], room[1])
        found = minimize(
            lambda d: d @ d,
            start,
            jac=lambda d: 2 * d,
            bounds=bounds,
            constraints={"type": "ineq", "fun": lambda d: direction @ d - margin, "jac": lambda d: direction},
            options={"ftol": 1e-15, "maxiter": 500},
        )
        return np.linalg.norm(found.x) if found.success else np.inf
    # δ = p - q with p, q ≥ 0; minimise t (linf) or the sum (l1)
    bounds = [(0, r) for r in room[1]] + [(0, r) for r in room[0]]
    gain = np.concatenate([-direction, direction])
    if norm == "l1":
        found = linprog(np.ones(2 * size), A_ub=gain[None], b_ub=[-margin], bounds=bounds)
    else:
        caps = np.hstack([np.eye(2 * size), -np.ones((2 * size, 1))])
        found = linprog(
            np.append(np.zeros(2 * size), 1),
            A_ub=np.vstack([np.append(gain, 0), caps]),
            b_ub=np.append([-margin], np.zeros(2 * size)),
            bounds=[*bounds, (0, None)],
        )
    return found.fun if found.success else np.inf


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("inside", [False, True])
def test_linear_radius_equals_independent_optimisation(norm, inside):
    compared = 0
    for seed in range(4):
        exact, weight, inputs, labels = _linear(seed)
        radius = exact.exact_radius(inputs, labels, norm, inside_box=inside)
        for row in range(len(inputs)):
            x = inputs[row].double().numpy()
            room = (x, 1 - x) if inside else (np.full(6, 1e3), np.full(6, 1e3))
            gaps = _gaps(exact, weight, inputs, labels, row)
            truth = min(_least(direction, margin, norm, room) for direction, margin in gaps)
            assert float(radius[row]) == pytest.approx(truth, rel=1e-5), (seed, row)
            compared += np.isfinite(truth)
    assert compared > 10


def test_radius_in_the_box_is_never_smaller_and_sometimes_infinite():
    exact, _, inputs, labels = _linear(1, box=Box(np.full(6, -0.2), np.full(6, 1.1)))
    for norm in exact.norms:
        free = exact.exact_radius(inputs, labels, norm)
        assert bool((exact.exact_radius(inputs, labels, norm, inside_box=True) >= free * (1 - 1e-12)).all())
    sure = linear_classifier([[1.0, 0.0], [0.0, 0.0]], [5.0, 0.0])
    assert sure.exact_radius(torch.rand(1, 2), torch.tensor([0]), "linf", inside_box=True).item() == float("inf")
    assert sure.exact_radius(torch.rand(1, 2), torch.tensor([1]), "linf").item() == 0.0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_model_flips_just_beyond_the_radius_and_not_before(norm):
    random = np.random.default_rng(3)
    exact = centre_classifier(random.random((4, 5)).astype(np.float32))
    inputs = torch.from_numpy(random.random((50, 5)).astype(np.float32))
    model = exact.model.double()
    labels = model(inputs).argmax(1)
    radius = exact.exact_radius(inputs, labels, norm)
    centres = model.module.centres
    flipped = torch.zeros(50, dtype=torch.bool)
    for runner_up in range(4):
        d = centres[runner_up] - centres[labels]
        if norm == "linf":
            step = d.sign()
        elif norm == "l2":
            step = (d / d.norm(dim=1, keepdim=True)).nan_to_num()
        else:
            top = d.abs().argmax(1, keepdim=True)
            step = torch.zeros_like(d).scatter(1, top, d.gather(1, top).sign())
        before, beyond = (inputs + step * (radius * f)[:, None] for f in (0.999, 1.001))
        assert torch.equal(model(before).argmax(1), labels)
        flipped |= model(beyond).argmax(1) != labels
    assert bool(flipped.all())
    rest = torch.from_numpy(random.normal(size=(200, 50, 5)))
    ord_ = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    inner = inputs + rest / torch.linalg.vector_norm(rest, ord=ord_, dim=2, keepdim=True) * (radius * 0.999)[:, None]
    assert torch.equal(model(inner.flatten(0, 1)).argmax(1).reshape(200, 50), labels.expand(200, 50))


def test_sphere_radius_is_the_distance_to_its_surface():
    exact = sphere_classifier(torch.full((3,), 0.5), 0.3)
    inputs = torch.tensor([[0.5, 0.5, 0.6], [0.5, 0.5, 1.0], [0.5, 0.5, 0.5]])
    labels = torch.tensor([0, 1, 1])
    radius = exact.exact_radius(inputs, labels, "l2")
    assert radius.tolist() == pytest.approx([0.2, 0.2, 0.0], abs=1e-6)
    assert exact.model(inputs).argmax(1).tolist() == [0, 1, 0]
    for norm, inside in (("linf", False), ("l2", True)):
        with pytest.raises(UnsupportedError, match="no closed form"):
            exact.exact_radius(inputs, labels, norm, inside_box=inside)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="`radius`"):
            sphere_classifier([0.0], bad)


def test_exact_models_refuse_bad_shapes():
    with pytest.raises(InputError, match="`weight`"):
        linear_classifier([[1.0, 2.0]])
    with pytest.raises(InputError, match="`bias`"):
        linear_classifier(np.eye(2), [0.0])
    with pytest.raises(InputError, match="different points"):
        centre_classifier([[1.0, 2.0], [1.0, 2.0]])


NETWORKS = [
    {"widths": (32,)},
    {"widths": (64, 32)},
    {"widths": (), "classes": 3},
    {"channels": (6,), "widths": (16,)},
    {"input_shape": (1, 28, 28), "widths": (100,)},
    {"box": (0.0, 255.0), "grid": 0, "widths": (24, 16)},
]


@pytest.mark.parametrize("arguments", NETWORKS)
def test_dyadic_networks_are_exact_in_any_batch_and_equal_float64(arguments):
    model = dyadic_network(seed=5, **arguments)
    random = torch.Generator().manual_seed(0)
    grid = arguments.get("grid", 10)
    top = int(np.max(model.box.high) * 2**grid)
    inputs = torch.randint(0, top + 1, (300, *model.input_shape), generator=random) / 2**grid
    inputs[0], inputs[1] = 0.0, float(np.max(model.box.high))
    whole = model(inputs)
    order = torch.randperm(300, generator=random)
    assert torch.equal(model(inputs[order]), whole[order])
    for size in (1, 7, 64):
        parts = torch.cat([model(part) for part in inputs.split(size)])
        assert torch.equal(parts, whole)
    double = dyadic_network(seed=5, **arguments).double()
    assert torch.equal(double(inputs.double()).float(), whole)
    assert max(exact_bits(model, grid)) <= 24
    assert len(torch.unique(model.module[-1].weight, dim=0)) == len(model.module[-1].weight)
    assert whole.argmax(1).unique().numel() > 1, "a constant classifier would pass everything"


def test_dyadic_gradients_of_a_margin_are_exact_too():
    model = dyadic_network(seed=2, widths=(32, 16))
    inputs = (torch.randint(0, 1025, (64, 1, 8, 8)) / 1024).requires_grad_()
    labels = model(inputs).argmax(1)

    def gradient(rows):
        logits = model(inputs[rows])
        margin = logits.gather(1, labels[rows, None])[:, 0] - logits.gather(1, (labels[rows, None] + 1) % 10)[:, 0]
        return torch.autograd.grad(margin.sum(), inputs)[0][rows]

    whole = gradient(torch.arange(64))
    assert torch.equal(torch.cat([gradient(torch.tensor([row])) for row in range(64)]), whole)
    assert bool((whole != 0).any())


def test_exact_bits_measures_what_the_activations_need():
    """The bound must cover the true whole numbers, and fail when a weight is made larger."""
    model = dyadic_network(seed=1, widths=(40,))
    inputs = torch.randint(0, 1025, (500, 1, 8, 8)) / 1024
    hidden = model.module[1](model.module[0](inputs)).detach().double()
    exponent = next(s for s in range(60) if bool((hidden * 2**s == (hidden * 2**s).round()).all()))
    forward, _ = exact_bits(model)
    assert float(hidden.abs().max()) * 2**exponent <= 2**forward
    with torch.no_grad():
        model.module[1].weight[0] *= 2**14
    assert exact_bits(model)[0] > 24


def test_impossible_dyadic_networks_are_refused():
    with pytest.raises(InputError, match="fewer layers"):
        dyadic_network(widths=(8,) * 14)
    with pytest.raises(InputError, match="different rows"):
        dyadic_network(input_shape=(1,), widths=(100,))
    assert exact_bits(wrap(nn.Linear(2, 2)))[0] > 24, "an ordinary layer is not exact"
