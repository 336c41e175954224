"""LipSDP: the smallest l2 constant that slope bounds of all activations together can prove, for small networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.operations import Activation, Input, Linear, Operation
from trustbound.certificates.sensitivity.operator_norms import dense_norm
from trustbound.errors import UnsupportedError

#: Numbers that inputs and hidden layers may have together: one step factors a matrix of so many rows.
MOST = 600
#: How close to the smallest constant the search goes, by its duality gap.
_GAP = 1e-5
#: What the entries of the matrix and its eigenvalues may be off by, in its size.
_ROUNDED = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layers:
    """A chain of matrices of norm at most 1, with activations between whose slopes lie in [low, high]."""

    weights: list[Tensor]
    low: list[float]
    high: list[float]
    product: float

    @property
    def sides(self) -> list[int]:
        """How many numbers each layer takes."""
        return [weight.shape[1] for weight in self.weights]


def lipsdp(graph: Graph) -> float:
    """Bound the l2 Lipschitz constant of a chain of matrices and activations by a semidefinite programme.

    Bound       Upper, and proven: the matrix inequality of what is returned holds with its smallest eigenvalue in
                float64 above all that is rounded. Never above the product of the layers' norms.
    Needs       linear steps with one operand and activations of bounded slope in a chain, of at most 600 numbers;
                inputs count for no more than the first layer has outputs.
    Update      minimise ρ over T = diag(t), t ≥ 0, such that for all changes of the layers' numbers
                Σ t_i q_i ≤ ρ ‖Δx₀‖² − ‖W_ℓ Δx_ℓ‖², where q_i = −2 (Δx_i − α Δv_i)(Δx_i − β Δv_i) ≥ 0, Δv_i being what
                enters unit i and [α, β] the slopes of its activation; by Newton steps along the central path of
                τ ρ − log det − Σ log t.
    Cost        some hundred factorisations of a matrix with a row for each number of the network.
    Raises      UnsupportedError for graphs that are no chain, and for larger networks.
    Reference   Fazlyab, Robey, Hassani, Morari and Pappas, Efficient and Accurate Estimation of Lipschitz Constants
                for Deep Neural Networks, 2019, arXiv:1906.04893, theorem 2 (LipSDP-Neuron).
    Deviations  an interior point method of its own, since each unit's matrix has rank two; what it finds is checked.

    >>> from trustbound.certificates.graph import read
    >>> first, last = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    >>> first.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> last.weight.data = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> network = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    >>> round(lipsdp(read(network, torch.rand(1, 2))), 2)  # the product is 9
    3.0
    """
    layers = _chain(graph)
    if layers.product == 0 or not math.isfinite(layers.product):
        return layers.product
    return layers.product * min(1.0, math.sqrt(_smallest(layers)) * (1 + 1e-9) + 1e-11)


def _chain(graph: Graph) -> _Layers:
    """Return the matrices between a network's activations, scaled to norm 1, and the slopes of these."""
    parts: list[list[Linear]] = [[]]
    low: list[float] = []
    high: list[float] = []
    for index, step in enumerate(graph.operations[: graph.head + 1]):
        if isinstance(step, Input):
            continue
        if step.sources != (index - 1,):
            raise UnsupportedError(f"no LipSDP: {step.where}: the network is no chain of layers")
        if isinstance(step, Linear):
            parts[-1].append(step)
            continue
        least, most = _slopes(step)
        low.append(least)
        high.append(most)
        parts.append([])
    sides = [graph.shape, *(part[-1].shape if part else () for part in parts)]
    numbers = [math.prod(shape) for shape in sides]
    if sum(numbers[1:-1]) + min(numbers[0], numbers[1]) > MOST or max(numbers) > 8 * MOST:
        raise UnsupportedError(
            f"no LipSDP: it serves networks of at most {MOST} numbers in all hidden layers; got {sum(numbers[1:-1])}. "
            "Leave it out."
        )
    weights = [_matrix(part, shape, graph.device) for part, shape in zip(parts, sides, strict=False)]
    if weights[0].shape[1] > weights[0].shape[0]:  # what lies outside of the first matrix's rows is not seen
        left, sizes, _ = torch.linalg.svd(weights[0], full_matrices=False)
        weights[0] = left * sizes
    norms = [dense_norm(weight) for weight in weights]
    scaled = [weight / norm if norm > 0 else weight for weight, norm in zip(weights, norms, strict=True)]
    product = math.prod(norms) * math.prod(max(abs(least), most) for least, most in zip(low, high, strict=True))
    steep = [max(abs(least), most) for least, most in zip(low, high, strict=True)]
    return _Layers(
        weights=scaled,
        low=[least / most for least, most in zip(low, steep, strict=True)],
        high=[side / most for side, most in zip(high, steep, strict=True)],
        product=product,
    )


def _slopes(step: Operation) -> tuple[float, float]:
    """Limits of an activation's slope."""
    if isinstance(step, Activation):
        return min(step.slope, 1.0), max(step.slope, 1.0)
    if isinstance(step, Smooth):
        steep = step.curve.steepness
        return (-steep if step.curve.falls else 0.0), steep
    raise UnsupportedError(f"no LipSDP: {step.where}: neither linear nor an activation of each number by itself")


def _matrix(part: list[Linear], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The matrix of some linear steps, one after another."""
    size = math.prod(shape)
    columns = torch.eye(size, dtype=torch.float64, device=device).unflatten(1, shape)
    for step in part:
        columns = replace(step, bias=None).apply(columns)
    matrix: Tensor = columns.flatten(1).T.cpu()
    return matrix


def _smallest(layers: _Layers) -> float:
    """The smallest ρ that is proven, in units in which the product of norms gives 1."""
    form = _Form(layers)
    variables = form.start()
    best, pressure = 1.0, 1.0
    while form.barrier(variables, pressure) < math.inf:
        variables = form.centred(variables, pressure)
        if not form.proven(variables):
            return best
        best = min(best, float(variables[0]))
        if form.count / pressure <= _GAP * best:
            return best
        pressure *= 8.0
    return best


class _Form:
    """The matrix S(ρ, t) that must be positive: ρ on the input, less what the slopes allow and the outputs take."""

    def __init__(self, layers: _Layers) -> None:
        sides = layers.sides
        first, total = sides[0], sum(sides)
        units = total - first
        self.layers, self.first, self.count = layers, first, total + units
        # Column i: what enters unit i, as weights over all numbers; the unit itself is number first + i.
        self.entering = torch.zeros(total, units, dtype=torch.float64)
        low, high = torch.zeros(units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
        row, column = 0, 0
        for index, weight in enumerate(layers.weights[:-1]):
            self.entering[row : row + sides[index], column : column + len(weight)] = weight.T
            low[column : column + len(weight)], high[column : column + len(weight)] = (
                layers.low[index],
                layers.high[index],
            )
            row, column = row + sides[index], column + len(weight)
        self.mixed = {("v", "v"): 2 * low * high, ("v", "x"): -(low + high), ("x", "v"): -(low + high)}
        self.mixed["x", "x"] = torch.full_like(low, 2.0)
        last = layers.weights[-1]
        self.outputs = torch.zeros(total, total, dtype=torch.float64)
        self.outputs[total - sides[-1] :, total - sides[-1] :] = last.T @ last

    def matrix(self, variables: Tensor) -> Tensor:
        """S at (ρ, t)."""
        weights, first = variables[1:], self.first
        scaled = self.entering * (weights * self.mixed["v", "v"])
        found = scaled @ self.entering.T - self.outputs
        crossed = self.entering * (weights * self.mixed["v", "x"])
        found[:, first:] += crossed
        found[first:] += crossed.T
        found.diagonal()[first:] += 2.0 * weights
        found.diagonal()[:first] += variables[0]
        return found

    def start(self) -> Tensor:
        """A point inside: from the last layer backwards, each takes twice what the one behind it needs."""
        needed, parts = 1.0, []
        for index in range(len(self.layers.weights) - 2, -1, -1):
            own = 1.5 * needed
            parts.append(torch.full((self.layers.weights[index].shape[0],), own, dtype=torch.float64))
            needed = own * (self.layers.low[index] ** 2 + self.layers.high[index] ** 2)
            needed += own * (self.layers.low[index] + self.layers.high[index]) ** 2
        return torch.cat([torch.tensor([1.5 * needed], dtype=torch.float64), *reversed(parts)])

    def barrier(self, variables: Tensor, pressure: float) -> float:
        """τ ρ − log det S − Σ log t, infinite outside."""
        if not bool((variables > 0).all()):
            return math.inf
        factor, failed = torch.linalg.cholesky_ex(self.matrix(variables))
        if int(failed):
            return math.inf
        inside = 2 * float(factor.diagonal().log().sum()) + float(variables[1:].log().sum())
        return pressure * float(variables[0]) - inside

    def centred(self, variables: Tensor, pressure: float) -> Tensor:
        """Newton steps to the point of the central path for a pressure."""
        value = self.barrier(variables, pressure)
        for _ in range(60):
            gradient, curvature = self.slopes(variables, pressure)
            step, failed = torch.linalg.solve_ex(curvature, -gradient)
            fall = -float(gradient @ step)
            if int(failed) or not fall > 1e-9:
                break
            length = 1.0
            while length > 1e-10:
                onward = variables + length * step
                there = self.barrier(onward, pressure)
                if there <= value - 0.1 * length * fall:
                    break
                length /= 2
            else:
                break
            variables, value = onward, there
        return variables

    def slopes(self, variables: Tensor, pressure: float) -> tuple[Tensor, Tensor]:
        """Gradient and second derivatives of the barrier."""
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.matrix(variables)))
        first, weights = self.first, variables[1:]
        entered = inverse @ self.entering
        met = {
            ("v", "v"): self.entering.T @ entered,
            ("v", "x"): entered[first:].T,
            ("x", "x"): inverse[first:, first:],
        }
        met["x", "v"] = met["v", "x"].T
        seen = {"v": entered[:first], "x": inverse[:first, first:]}
        gradient, across = torch.zeros_like(variables), torch.zeros_like(weights)
        curvature = torch.zeros(len(variables), len(variables), dtype=torch.float64)
        for (one, other), factor in self.mixed.items():
            gradient[1:] -= factor * met[one, other].diagonal()
            across += factor * (seen[one] * seen[other]).sum(0)
            for (third, fourth), also in self.mixed.items():
                curvature[1:, 1:] += factor.unsqueeze(1) * also * met[other, third] * met[one, fourth]
        gradient[0] = pressure - inverse.diagonal()[:first].sum()
        gradient[1:] -= 1 / weights
        curvature[0, 0] = inverse[:first, :first].square().sum()
        curvature[0, 1:], curvature[1:, 0] = across, across
        curvature.diagonal()[1:] += weights**-2
        return gradient, curvature

    def proven(self, variables: Tensor) -> bool:
        """Whether S is positive whatever was rounded."""
        found = self.matrix(variables)
        least = float(torch.linalg.eigvalsh(found)[0])
        return bool((variables[1:] >= 0).all()) and least > _ROUNDED * float(found.norm())
