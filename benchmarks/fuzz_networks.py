"""Random networks for the certificate fuzz, each a pure function of its seed.

A network is a forward pass of a few lines of Python over `h`, made one line at a time (`fuzz_lines`): every line is run
at once on a sample, in the network's own precision and in float64, and is dropped where it does not run. So the text of
a network is its code: `case.text` is what a reproducing test needs. A second text without casts is the network in exact
arithmetic: `case.exact` runs it in float64.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import fuzz_lines as lines
from trustbound.model.wrapping import Model, wrap

FAMILIES = ("dense", "conv", "residual", "views", "casts", "extreme", "pools", "mixed")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SAMPLE = 16
_GLOBALS = {"torch": torch, "F": F}


class Net(nn.Module):
    """A forward pass given as lines of Python over `h`, with parts as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Callable[[nn.Module, Tensor], Tensor] | None = None
        self.lines: tuple[str, ...] = ()

    def compile_lines(self, text: list[str]) -> None:
        """Make the lines the forward pass."""
        self.lines = tuple(text)
        body = "\n".join(f"    {line}" for line in [*text, "return h"])
        made: dict[str, Any] = {}
        exec(f"def run(self, h):\n{body}\n", _GLOBALS, made)
        self.run = made["run"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the lines."""
        assert self.run is not None
        return self.run(self, inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One network with inputs: `model` as it is run, `exact` in float64 without casts.

    `inputs` are in the precision that the model takes; `dtypes` names every precision that the forward pass uses;
    `corners` (K, *F) are points where it was built to do something that it does nowhere else.
    """

    seed: int
    family: str
    model: Net | Model
    exact: Net
    inputs: Tensor
    box: tuple[float, float]
    lines: tuple[str, ...]
    dtypes: tuple[str, ...]
    corners: Tensor

    @property
    def text(self) -> str:
        """The forward pass, with what its parts are."""
        wrapped = "wrapped, " if isinstance(self.model, Model) else ""
        head = f"seed {self.seed}: {self.family}, {wrapped}inputs {tuple(self.inputs.shape)} {self.inputs.dtype}"
        net = self.model.module if isinstance(self.model, Model) else self.model
        kinds = {name: next((str(p.dtype) for p in part.parameters()), "") for name, part in net.named_children()}
        parts = [f"{name} = {part}, {kinds[name]}" for name, part in net.named_children()]
        return "\n    ".join([f"{head}, box {self.box}", *parts, *self.lines])


def make(seed: int) -> Case:
    """Return the network of a seed; what does not run in its own precision is drawn again.

    >>> make(3).lines == make(3).lines
    True
    """
    for attempt in range(100):
        case = Builder(seed, attempt).build()
        if case is not None:
            return case
    raise RuntimeError(f"no network came of seed {seed} in 100 attempts")


class Builder:
    """Draws lines for one network and keeps those that run.

    `here` holds the variables of the forward pass on a sample in its own precision, `truth` in float64.
    """

    def __init__(self, seed: int, attempt: int) -> None:
        self.seed = seed
        self.chance = random.Random(f"{seed}/{attempt}")
        self.noise = torch.Generator().manual_seed(self.chance.getrandbits(62))
        self.family = FAMILIES[seed % len(FAMILIES)]
        weights = {"casts": (1, 4, 3, 2), "extreme": (5, 4, 2, 3)}.get(self.family, (3, 4, 2, 2))
        self.dtype = self.chance.choices(DTYPES, weights)[0]
        self.own, self.exact = Net(), Net()
        self.lines: list[str] = []
        self.pure: list[str] = []
        self.saved: list[str] = []
        self.undo: float | None = None
        self.corners: Tensor | None = None
        self.complete = False
        self.kind = self.family
        self.used = {self.dtype}
        self.here: dict[str, Any] = {}
        self.truth: dict[str, Any] = {}

    @property
    def h(self) -> Tensor:
        """The current value of the sample, in its own precision."""
        return self.here["h"]  # type: ignore[no-any-return]

    def build(self) -> Case | None:
        """Draw a whole network, or None where the draw came to nothing."""
        chance = self.chance
        boxes = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 1e-20), (-1e4, 1e4), (0.25, 0.3125), (0.1, 0.7)]
        self.box = chance.choices(boxes, (60, 15, 10, 5 if self.family == "extreme" else 1, 4, 3, 4))[0]
        self.classes = chance.choice((2, 2, 3, 3, 4, 5, 7, 10, 10, 50 if chance.random() < 0.15 else 3))
        wrapped = chance.random() < 0.35
        taken = self.dtype
        if wrapped and self.dtype != torch.float64 and chance.random() < 0.6:
            taken = chance.choice((torch.float32, torch.float32, torch.float64))
        points = self._points(SAMPLE, self._shape(), taken)
        if max(map(abs, self.box)) > torch.finfo(self.dtype).max:
            return None
        self._start = points.to(self.dtype), points.double()
        self._again()
        lines.normalise(self)
        if not self.complete:
            moves = lines.moves(self.kind, self.seed)
            coarse = torch.finfo(self.dtype).eps > 1e-4
            for _ in range(chance.randint(1, 4) if coarse and self.family != "views" else chance.randint(2, 9)):
                chance.choices(list(moves), list(moves.values()))[0](self)
            lines.head(self)
        if chance.random() < 0.1:
            self.emit("h = F.log_softmax(h, 1)")
        self.own.compile_lines(self.lines)
        self.exact.compile_lines(self.pure)
        for net in (self.own, self.exact):
            net.eval().requires_grad_(False)
        model = wrap(self.own, box=self.box) if wrapped else self.own
        if isinstance(model, Model) and model.dtype != self.dtype:
            return None  # the wrapper casts to the first parameter's precision: not the network that was drawn
        inputs = points[: chance.choice((1, 5, 5))].clone()
        if self.corners is not None:
            self.corners = self.corners.reshape(-1, *inputs.shape[1:])[:4]
            inputs = torch.cat([inputs[:3], self.corners[:2].to(inputs.dtype)])
        try:
            outputs = model(inputs.clone())
        except (RuntimeError, ValueError):
            return None
        if outputs.shape != (len(inputs), self.classes) or not outputs.is_floating_point():
            return None
        return Case(
            seed=self.seed,
            family=self.family,
            model=model,
            exact=self.exact,
            inputs=inputs,
            box=self.box,
            corners=inputs[:0].double() if self.corners is None else self.corners,
            lines=tuple(self.lines),
            dtypes=tuple(str(kind).removeprefix("torch.") for kind in DTYPES if kind in self.used),
        )

    def emit(self, line: str, pure: str | None = None) -> bool:
        """Run a line in both precisions; keep it where both run, agree about the shape and stay small."""
        pure = line if pure is None else pure
        try:
            with torch.no_grad():
                exec(line, _GLOBALS, self.here)
                exec(pure, _GLOBALS, self.truth)
            fits = self.h.shape == self.truth["h"].shape and self.h[0].numel() <= 400 and self.h.is_floating_point()
        except Exception:
            fits = False
        if fits:
            self.lines.append(line)
            self.pure.append(pure)
            self.used.add(self.h.dtype)
        else:
            self._again()
        return fits

    def value(self, expression: str) -> Any:
        """Evaluate an expression on the sample in its own precision, None where it does not run."""
        try:
            return eval(expression, _GLOBALS, self.here)
        except Exception:
            return None

    def part(self, part: nn.Module, dtype: torch.dtype | None = None) -> str:
        """Add a part, in a precision of its own; return its name."""
        name = f"p{len(list(self.own.children()))}"
        self.own.add_module(name, part.to(dtype or self.h.dtype).eval())
        copied = type(self).copied(part)
        self.exact.add_module(name, copied)
        self.used.add(dtype or self.h.dtype)
        return name

    @staticmethod
    def copied(part: nn.Module) -> nn.Module:
        """Return a float64 copy."""
        return copy.deepcopy(part).double()

    def constant(self, values: Tensor) -> str:
        """Add a buffer in the current precision; return its name."""
        name = f"c{len(list(self.own.buffers(recurse=False)))}"
        self.own.register_buffer(name, values.to(self.h.dtype))
        self.exact.register_buffer(name, values.to(self.h.dtype).double())
        return name

    def normal(self, *shape: int) -> Tensor:
        """Draw normal numbers in float64."""
        return torch.randn(*shape, generator=self.noise, dtype=torch.float64)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Return corners of the box that carry some of the current values far, and how far each does: (K, *F), (K,)."""
        low, high = self.box
        net = copy.copy(self.exact)
        net.compile_lines(self.pure)
        middle = torch.full_like(self._start[1][:1], (low + high) / 2).requires_grad_()
        values = net(middle * 1).flatten()
        found = []
        for place in self.chance.sample(range(len(values)), min(3, len(values))):
            (slope,) = torch.autograd.grad(values[place], middle, retain_graph=True)
            found += [torch.where(slope > 0, high, low), torch.where(slope > 0, low, high)]
        corners = torch.cat(found).double()
        with torch.no_grad():
            return corners, net(corners.clone()).flatten(1).abs().amax(1)

    def _again(self) -> None:
        """Run the kept lines from the start, after one that failed half-way."""
        self.here = {"h": self._start[0].clone(), "self": self.own}
        self.truth = {"h": self._start[1].clone(), "self": self.exact}
        with torch.no_grad():
            for line, pure in zip(self.lines, self.pure, strict=True):
                exec(line, _GLOBALS, self.here)
                exec(pure, _GLOBALS, self.truth)

    def _shape(self) -> tuple[int, ...]:
        chance = self.chance
        flat = {"dense": 1.0, "residual": 0.5, "conv": 0.0, "pools": 0.0}.get(self.family, 0.55)
        if chance.random() < flat:
            return (chance.choice((8, 12, 13, 17) if self.family == "views" else (1, 2, 3, 4, 4, 6, 7, 8, 12, 13, 17)),)
        if chance.random() < 0.2 and self.family != "pools":
            return (chance.choice((1, 2, 3)), chance.choice((1, 3, 5, 7, 8)))
        side = chance.choice((1, 2, 3, 4, 4, 5, 6, 7))
        return (chance.choice((1, 1, 2, 3)), side, side if chance.random() < 0.7 else chance.choice((1, 2, 3, 5)))

    def _points(self, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Draw points of the box in a precision, some coordinates at its ends."""
        low, high = self.box
        share = torch.rand(count, *shape, generator=self.noise, dtype=torch.float64)
        ends = torch.rand(count, *shape, generator=self.noise, dtype=torch.float64)
        points = low + (high - low) * torch.where(ends < 0.15, share.round(), share)
        limits = torch.tensor([low, high], dtype=dtype)
        return points.to(dtype).clamp(limits[0], limits[1])
