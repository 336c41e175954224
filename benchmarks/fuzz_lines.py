"""The lines that a random network of the certificate fuzz is drawn from: layers, branches, views, casts.

Every function takes the builder, which knows the current value `h`, and emits lines that the builder may drop.
Constants are chosen by the values that the sample has: limits that it just does not reach, factors that bring a value
to the end of a precision's range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.fuzz_corners import brim, corner, gate
from benchmarks.fuzz_products import attend, multiply, share, upsample

if TYPE_CHECKING:
    from benchmarks.fuzz_networks import Builder

Move = Callable[["Builder"], None]
KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# Parts with weights.


def gain(b: Builder) -> float:
    """Draw how large weights are beside 1/√n."""
    draw, wild = b.chance.random(), b.family in ("extreme", "mixed")
    if draw < (0.08 if wild else 0.01):
        return 10 ** b.chance.uniform(-30, 30)
    if draw < (0.35 if wild else 0.08):
        return 10 ** b.chance.uniform(-5, 5)
    return b.chance.uniform(0.5, 2.5)


def fill(b: Builder, part: nn.Module) -> nn.Module:
    """Draw weights and biases: some zero, some whole numbers, some biases that dwarf the weights."""
    part = part.double()
    weight: torch.Tensor = part.weight  # type: ignore[assignment]
    size = gain(b)
    values = b.normal(*weight.shape) * size / math.sqrt(max(1, weight[0].numel()))
    if b.chance.random() < 0.1:
        values = values * (b.normal(*weight.shape) > 0)
    if b.chance.random() < 0.1:
        values = b.normal(*weight.shape).mul(2).round() * size
    with torch.no_grad():
        weight.copy_(values)
        if isinstance(part.bias, torch.Tensor):
            wide = 10 ** b.chance.uniform(1, 6) if b.chance.random() < 0.15 else b.chance.choice((0.0, 0.1, 1.0))
            part.bias.copy_(b.normal(*part.bias.shape) * size * wide)
    return part


def through(b: Builder, part: nn.Module) -> bool:
    """Emit a part applied to `h`, in the current precision or in another."""
    dtype = b.h.dtype
    if b.family in ("casts", "mixed") and b.chance.random() < 0.35:
        dtype = b.chance.choice(KINDS)
    before = b.h.dtype
    name = b.part(part, dtype)
    line = f"h = self.{name}(h)"
    done = b.emit(line if dtype == before else f"h = self.{name}(h.to({dtype}))", line)
    if done and dtype != before and b.chance.random() < 0.5:
        b.emit(f"h = h.to({before})", "h = h.clone()")
    return done


def dense(b: Builder) -> None:
    """Emit a matrix over the last axis."""
    wide = (1, 2, 3, 4, 5, 7, 8, 8, 13, 16, 31, 40) if b.family == "dense" else (1, 2, 3, 4, 6, 8, 11)
    through(b, fill(b, nn.Linear(b.h.shape[-1], b.chance.choice(wide), bias=b.chance.random() < 0.8)))


def convolve(b: Builder) -> None:
    """Emit a convolution with odd strides, padding, dilation and groups."""
    count, c = b.h.ndim - 2, b.chance
    if count not in (1, 2):
        return flatten(b) if count else dense(b)
    channels = b.h.shape[1]
    groups = c.choice([1, 1, 1, channels, 2 if channels % 2 == 0 else 1])
    layer = (nn.Conv1d, nn.Conv2d)[count - 1]
    kernel = tuple(c.choice((1, 2, 3, 3, 5)) for _ in range(count))
    stride = c.choice((1, 1, 2, 3))
    part = layer(
        channels,
        groups * c.choice((1, 1, 2, 3)),
        kernel,
        stride=stride,
        padding="same" if stride == 1 and c.random() < 0.1 else c.choice((0, 1, 1, 2)),
        dilation=c.choice((1, 1, 1, 2)),
        groups=groups,
        bias=c.random() < 0.7,
        padding_mode="zeros" if c.random() < 0.97 else "replicate",
    )
    through(b, fill(b, part))
    return None


def norm(b: Builder) -> None:
    """Emit batch norm in eval, around the sample's statistics or with extreme ones."""
    c, count = b.chance, b.h.ndim - 2
    if count > 2:
        return
    eps = c.choice((1e-5, 1e-5, 1e-3, 1e-12))
    part = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[count](b.h.shape[1], eps=eps, affine=c.random() < 0.8)
    part = part.double()
    values = b.truth["h"].transpose(0, 1).flatten(1)
    mean, variance = values.mean(1), values.var(1, unbiased=False) + 1e-6
    if c.random() < (0.5 if b.family == "extreme" else 0.15):
        variance = variance * 10 ** c.uniform(-10, 10)
    if c.random() < 0.15:
        mean = mean * 10 ** c.uniform(-2, 4)
    assert part.running_mean is not None
    assert part.running_var is not None
    part.running_mean.copy_(mean)
    part.running_var.copy_(variance)
    if part.affine:
        with torch.no_grad():
            part.weight.copy_(1 + b.normal(len(mean)) * 0.5)
            part.bias.copy_(b.normal(len(mean)) * c.choice((0.1, 1.0, 100.0 if c.random() < 0.2 else 1.0)))
    # Common: normalisation in float32 behind a body of lower precision.
    through(b, part)


# Activations, limits, constants.


def limit(b: Builder) -> float:
    """Draw a limit by the sample's values: often one that they just do not reach."""
    peak = float(b.truth["h"].abs().amax())
    peak = peak if math.isfinite(peak) and peak > 0 else 1.0
    return float(f"{peak * b.chance.choice((0.1, 0.5, 0.9, 1.02, 1.3, 2.0)):.4g}")


def factor(b: Builder) -> str:
    """Draw a factor, as a number or as a buffer."""
    if b.chance.random() < 0.25:
        return f"self.{b.constant(b.normal(*b.h.shape[1:]))}"
    return repr(b.chance.choice((0.1, 0.5, 2.0, -1.0, 1 / 3, 3.7, -0.7, 1e-3)))


#: Networks of seeds from here on have smooth activations too; those before are what they always were.
SMOOTH_FROM = 100_000
#: From here on also waves, products of what depends on the input, normalisation, attention, transposed convolutions.
PRODUCTS_FROM = 200_000


def activate(b: Builder) -> None:
    """Emit an activation, often in place."""
    low, high = sorted((limit(b) * b.chance.choice((-1, 1)), limit(b)))
    slope = b.chance.choice((0.01, 0.1, 0.5, 1.0))
    plain = ["h = F.relu(h)", "h = h.relu()", f"h = F.leaky_relu(h, {slope})", f"h = h.clamp(max={high})"]
    plain += [f"h = h.clamp({low}, {high})", f"h = h.clamp(min={low})", "h = F.relu6(h)", "h = h.clamp_min(0)"]
    plain += [f"h = F.hardtanh(h, {low}, {high})"]
    inplace = ["h.relu_()", "F.relu(h, inplace=True)", "h = torch.relu_(h)", f"F.leaky_relu_(h, {slope})"]
    inplace += [f"h.clamp_(max={high})", f"h.clamp_(min={low})", f"h.clamp_({low}, {high})", "h = F.relu_(h)"]
    if b.seed < SMOOTH_FROM:
        b.emit(b.chance.choice(plain if b.chance.random() < 0.6 else inplace))
        return
    smooth = ["h = torch.sigmoid(h)", "h = h.tanh()", "h = F.silu(h)", "h = F.gelu(h)", "h = F.elu(h)", "h = h.abs()"]
    smooth += [
        "h = F.gelu(h, approximate='tanh')",
        f"h = F.softplus(h, {b.chance.choice((1.0, 2.0))})",
        "h = h.tanh_()",
    ]
    if b.seed >= PRODUCTS_FROM:
        smooth += ["h = h.sin()", "h = torch.cos(h)", f"h = torch.sin({b.chance.choice((0.3, 5.0))} * h)"]
        smooth += ["h = F.hardsigmoid(h)", "h = F.hardswish(h)"]
    kinds = (plain, plain, inplace, smooth)
    b.emit(b.chance.choice(b.chance.choice(kinds)))


def activate_part(b: Builder) -> None:
    """Emit an activation that is a part, sometimes one used before."""
    used = [name for name, part in b.own.named_children() if isinstance(part, nn.ReLU | nn.LeakyReLU)]
    if used and b.chance.random() < 0.5:
        name = b.chance.choice(used)
    else:
        inplace = b.chance.random() < 0.5
        name = b.part(nn.ReLU(inplace) if b.chance.random() < 0.7 else nn.LeakyReLU(0.2, inplace))
    b.emit(f"h = self.{name}(h)")


def arithmetic(b: Builder) -> None:
    """Emit constants added, subtracted, multiplied, divided, in place or not."""
    x, y = factor(b), factor(b)
    lines = [f"h = h * {x}", f"h = h + {x}", f"h = {x} - h", f"h = h / {x}", f"h = {x} * h - {y}", "h = -h"]
    lines += [f"h.mul_({x})", f"h.add_({x})", f"h.sub_({x})", f"h.div_({x})", f"h += {x}", f"h *= {x}", "h.neg_()"]
    lines += [f"h -= {x}", f"torch.mul(h, {x}, out=h)" if b.chance.random() < 0.1 else f"h = h + {y}"]
    b.emit(b.chance.choice(lines))


def recentre(b: Builder) -> None:
    """Emit the sample's mean taken off: what cancels a bias that dwarfs the weights."""
    mean = b.truth["h"].mean(0)
    if b.chance.random() < 0.5:
        b.emit(f"h = h - self.{b.constant(mean)}")
    else:
        b.emit(f"h = h - {float(mean.mean())!r}")


def stretch(b: Builder) -> None:
    """Emit a factor that brings the largest value near the end of the precision's range, and take it back later."""
    peak, kind = float(b.truth["h"].abs().amax()), torch.finfo(b.h.dtype)
    if b.undo is not None or not (0 < peak < 1e300):
        return
    if b.chance.random() < 0.15:
        # Large, then by a factor that is subnormal or zero in this precision, then back.
        large = math.log10(kind.max) - b.chance.uniform(0.5, 3) - math.log10(peak)
        small = math.log10(kind.tiny) - b.chance.uniform(-2, 10)
        if all(-300 < size < 300 for size in (large, small, -large - small)):
            for size in (large, small, -large - small):
                b.emit(f"h = h * {10**size!r}")
        return
    if b.chance.random() < 0.5 and corner(b, kind.max):
        return
    goal = math.log10(kind.max) + b.chance.uniform(-2.5, 0.3)
    if b.chance.random() < 0.45:
        goal = math.log10(kind.tiny) + b.chance.uniform(-3, 2)
    try:
        size = 10 ** (goal - math.log10(peak))
    except OverflowError:
        return
    if 0 < size < 1e308 and b.emit(f"h = h * {size!r}") and b.chance.random() < 0.8 and 1 / size < 1e308:
        b.undo = 1 / size


# Casts.


def cast(b: Builder) -> None:
    """Emit a cast; one to the same precision is the same tensor, any other a copy."""
    kind = b.chance.choice(KINDS)
    short = {torch.float64: "double", torch.float32: "float", torch.bfloat16: "bfloat16", torch.float16: "half"}[kind]
    text = b.chance.choice((f"h.{short}()", f"h.to({kind})", f"h.type({kind})", f"h.to(dtype={kind})"))
    same = "h" if kind == b.h.dtype else "h.clone()"
    if b.chance.random() < 0.2 and len(b.saved) < 3:
        name = f"r{len(b.saved)}"
        if b.emit(f"{name} = {text}", f"{name} = {same}"):
            b.saved.append(name)
    else:
        b.emit(f"h = {text}", f"h = {same}")


# Values read several times.


def save(b: Builder) -> None:
    """Keep the current value for later: the same tensor, a copy or a view."""
    name = f"r{len(b.saved)}"
    forms = ["h", "h", "h.clone()", "h.detach()", "h.contiguous()", "h.flatten(1)", "h.to(h.dtype)", "F.relu(h)"]
    forms += ["h.view(h.shape)", "h.view_as(h)", "h * 0.5", "h[:, :1]", "h.reshape(h.shape)"]
    if len(b.saved) < 3 and b.emit(f"{name} = {b.chance.choice(forms)}"):
        b.saved.append(name)


def join(b: Builder) -> None:
    """Bring a kept value back: a sum, a difference, side by side."""
    c = b.chance
    if not b.saved:
        return save(b)
    r = c.choice(b.saved)
    if b.here[r].shape == b.h.shape:
        lines = [f"h = h + {r}", f"h = {r} + h", f"h = h - {r}", f"h = torch.add(h, {r}, alpha=0.5)"]
        lines += [f"h = torch.cat([h, {r}], 1)", f"h = torch.cat([{r}, h], -1)", f"h = h + 0.3 * {r}"]
        lines += [f"h += {r}", f"h.add_({r}, alpha=-0.5)", f"h = F.relu(h) + {r}"]
    else:
        lines = [f"h = torch.cat([h, {r}], 1)", f"h = torch.cat([h.flatten(1), {r}.flatten(1)], 1)", f"h = h + {r}"]
    b.emit(c.choice(lines))
    return None


def twice(b: Builder) -> None:
    """Use one part twice, its weights for two things, or one value in two parts."""
    c = b.chance
    if b.h.ndim != 2:
        return save(b)
    n = b.h.shape[1]
    first = b.part(fill(b, nn.Linear(n, n)))
    second = b.part(fill(b, nn.Linear(n, c.choice((n, n, 3)))))
    lines = [f"h = self.{first}(F.relu(self.{first}(h)))", f"h = self.{first}(h) + self.{second}(h)"]
    lines += [f"h = F.linear(F.relu(F.linear(h, self.{first}.weight)), self.{first}.weight.t(), self.{first}.bias)"]
    lines += [f"h = torch.cat([F.relu(self.{first}(h)), self.{second}(h)], 1)", f"h = h + self.{first}(h.relu())"]
    lines += [f"h = h + self.{first}(h.relu_())", f"h = torch.addmm(self.{first}.bias, h, self.{first}.weight.t())"]
    lines += [f"h = h @ self.{first}.weight", f"h = self.{first}(h).relu_() - self.{second}(h)"]
    b.emit(c.choice(lines))
    return None


# Shapes, pools, views.


def flatten(b: Builder) -> None:
    """Emit a reshape to one axis."""
    b.emit(b.chance.choice(("h = h.flatten(1)", "h = h.reshape(len(h), -1)", "h = torch.flatten(h, 1)")))


def halves(n: int) -> tuple[int, int]:
    """Return the most even factors of n."""
    a = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
    return a, n // a


def arrange(b: Builder) -> None:
    """Emit a reshape or a permutation."""
    n = b.h[0].numel()
    p, q = halves(n)
    lines = [f"h = h.view(-1, {p}, {q})", f"h = h.reshape(-1, {q}, {p})", f"h = h.view(-1, 1, {p}, {q})"]
    lines += [f"h = h.reshape(-1, {n})", "h = h.unsqueeze(1)", "h = h.flatten(1)", f"h = h.unflatten(1, ({p}, {q}))"]
    if b.h.ndim > 2:
        lines += ["h = h.transpose(1, 2)", "h = h.transpose(-1, 1).contiguous()", "h = h.mT", "h = h.flatten(1)"]
        lines += ["h = h.permute(0, 2, 1)" if b.h.ndim == 3 else "h = h.permute(0, 3, 1, 2)", "h = h.squeeze(1)"]
    b.emit(b.chance.choice(lines))


def pool(b: Builder) -> None:
    """Emit a pool or a mean."""
    c = b.chance
    k, s, p = c.choice((1, 2, 2, 3)), c.choice((1, 2, 2, 3)), c.choice((0, 0, 1))
    if b.h.ndim == 4:
        lines = [f"h = F.max_pool2d(h, {k}, {s}, {p})", f"h = F.max_pool2d(h, ({k}, 1), {s})"]
        lines += [f"h = F.max_pool2d(h, {k}, {s}, {p}, ceil_mode=True)", f"h = F.max_pool2d(h, {k}, 1, 0, 2)"]
        lines += [f"h = F.avg_pool2d(h, {k}, {s}, {p})", f"h = F.avg_pool2d(h, {k}, {s}, {p}, count_include_pad=False)"]
        lines += [
            f"h = F.avg_pool2d(h, {k}, {s}, divisor_override=3)",
            f"h = F.avg_pool2d(h, {k}, {s}, ceil_mode=True)",
        ]
        lines += ["h = F.adaptive_avg_pool2d(h, 1)", "h = F.adaptive_avg_pool2d(h, (1, 2))", "h = h.mean((2, 3))"]
        lines += ["h = h.mean((2, 3), keepdim=True)", "h = h.mean(1, keepdim=True)", f"h = F.max_pool2d(h, {k})"]
        lines += ["h = F.adaptive_max_pool2d(h, 1)", "h = h.mean(-1)"]
    elif b.h.ndim == 3:
        lines = [f"h = F.avg_pool1d(h, {k})", "h = h.mean(2)", "h = h.mean(1)", f"h = F.max_pool1d(h, {k}, {s})"]
        lines += ["h = F.adaptive_avg_pool1d(h, 1)", "h = h.mean(-1, keepdim=True)"]
    else:
        lines = ["h = h.mean(1, keepdim=True)", "h = h - h.mean(1, keepdim=True)"]
        if b.chance.random() < 0.7:
            return activate(b)
    b.emit(c.choice(lines))
    return None


def view(b: Builder) -> str:
    """Draw an expression that sees `h`, or a part of it, in another shape."""
    n, width = b.h[0].numel(), b.h.shape[1]
    p, q = halves(n)
    k = b.chance.randint(1, max(1, width - 1))
    forms = [f"h.view(-1, {p}, {q})", f"h.reshape(-1, {p}, {q})", f"h[:, :{k}]", f"h[:, {k}:]", "h[:, ::2]", "h[:, 0]"]
    forms += [f"h.narrow(1, 0, {k})", f"h.select(1, {k - 1})", "h.unsqueeze(1)", "h.flatten(1)", "h[..., -1]", "h[:]"]
    forms += [f"h.chunk({min(2, width)}, 1)[0]", f"h.split({k}, 1)[-1]", "h.unbind(1)[0]", "h.transpose(1, -1)", "h.mT"]
    forms += ["h.detach()", "h.contiguous()", f"h.view(-1, {p}, {q}).transpose(1, 2)", f"h.view(-1, {p}, {q})[:, 0]"]
    forms += [
        f"h[:, :{k}].unsqueeze(-1)",
        "h.view_as(h)",
        "h.to(h.dtype)",
        "h.squeeze()",
        f"h.view(-1, {q}, {p})[..., :1]",
    ]
    forms += ["h[:, 1:][:, :1]", f"h.unflatten(1, ({halves(width)[0]}, -1))", "h.swapaxes(0, 1)", "h.data"]
    return b.chance.choice(forms)


def through_view(b: Builder) -> None:
    """Emit work in place through a view: what a reader that follows values by name loses."""
    c, v = b.chance, view(b)
    size, low = limit(b), -limit(b)
    works = [f".clamp_(max={size})", f".clamp_({low}, {size})", ".relu_()", ".mul_(2.0)", ".mul_(-0.5)", ".add_(0.3)"]
    works += [".neg_()", ".zero_()", f".fill_({size})", f".clamp_(min={low})", f".clamp_(max={size})"]
    draw = c.random()
    if draw < 0.6:
        b.emit(f"{v}{c.choice(works)}")
    elif draw < 0.75:
        k = c.randint(1, max(1, b.h.shape[1] - 1))
        lines = [
            f"h[:, :{k}] *= 2.0",
            f"h[:, {k}:] += 0.5",
            "h[:, 0] = 0.5",
            "h[:, 0] = h[:, -1]",
            "h[:, -1] -= h[:, 0]",
        ]
        lines += [f"h[:, :{k}] = h[:, :{k}].relu()", f"h[..., 0].clamp_(max={size})", "h[:, 0] += h[:, 1]"]
        b.emit(c.choice(lines))
    elif draw < 0.85:
        b.emit(c.choice((f"F.relu({v}, inplace=True)", f"torch.clamp_({v}, max={size})", f"F.leaky_relu_({v}, 0.1)")))
    elif len(b.saved) < 3:
        # A view kept by name sees what later happens to its base, and the other way round.
        name = f"r{len(b.saved)}"
        if b.emit(f"{name} = {v}"):
            b.saved.append(name)
            work = c.choice(works)
            b.emit(c.choice((f"h{work}", f"{name}{work}")))
    else:
        b.emit(f"{c.choice(b.saved)}{c.choice(works)}")


def odd(b: Builder) -> None:
    """Emit what is seldom seen: most of it has no proof."""
    lines = [
        "h = h.abs()",
        "h = F.elu(h)",
        "h = F.pad(h, (1, 0))",
        "h = h.flip(1)",
        "h = h.roll(1, 1)",
        "h = h[:, [0]]",
    ]
    lines += [
        "h = torch.stack((h, h), 1)",
        "h = h.sum(1, keepdim=True)",
        "h = h.cumsum(1)",
        "h = h * h",
        "h = h[:, :1]",
    ]
    lines += ["h = torch.maximum(h, h * 0.1)", "h = torch.where(h > 0, h, h * 0.1)", "h = F.threshold(h, 0.0, 0.0)"]
    lines += ["h = F.dropout(h, 0.5, False)", "h = h.expand(h.shape)", "h = h.repeat(1, *[1] * (h.ndim - 1))"]
    b.emit(b.chance.choice(lines))


def moves(family: str, seed: int) -> dict[Move, float]:
    """Return the moves of a family, with how often each is drawn."""
    common: dict[Move, float] = {activate: 4, activate_part: 1.5, arithmetic: 0.7, odd: 0.05}
    more: dict[str, dict[Move, float]] = {
        "dense": {dense: 5, recentre: 0.3, norm: 0.3},
        "conv": {convolve: 5, norm: 1, pool: 0.5, recentre: 0.2},
        "residual": {dense: 1.5, convolve: 2, save: 3, join: 4, twice: 2, norm: 0.7, cast: 0.1},
        "views": {through_view: 7, save: 1, join: 1.5, dense: 2, convolve: 1, arrange: 0.5},
        "casts": {cast: 3, dense: 2, convolve: 1, norm: 0.7, save: 0.5, join: 0.7, pool: 0.3},
        "extreme": {stretch: 2, dense: 2, convolve: 1, norm: 1.5, recentre: 1, save: 0.4, join: 0.5, pool: 0.4},
        "pools": {pool: 5, convolve: 2, arrange: 2, norm: 0.5, save: 0.5, join: 0.7, dense: 0.3},
        "mixed": {dense: 2, convolve: 1.5, norm: 1, pool: 0.7, arrange: 0.7, save: 1, join: 1.5, twice: 0.5, cast: 1},
    }
    if family == "mixed":
        common = {**common, through_view: 1, stretch: 0.3, recentre: 0.4}
    if seed >= PRODUCTS_FROM:
        common = {**common, multiply: 1.5, share: 1.5, attend: 1, upsample: 1 if family == "conv" else 0.3}
    return {**common, **more[family]}


def normalise(b: Builder) -> None:
    """Bring inputs of odd boxes to size one, or leave them; give some networks of views a corner of their own."""
    low, high = b.box
    if b.family == "extreme" and b.h[0].numel() >= 4 and b.chance.random() < 0.5:
        brim(b)
        return
    if b.family == "views":
        pass
    elif b.box != (0.0, 1.0) and b.chance.random() < 0.7:
        width = high - low
        b.emit(b.chance.choice((f"h = h / {width!r}", f"h = h * {1 / width!r}", f"h = (h - {low!r}) * {1 / width!r}")))
    elif b.chance.random() < 0.1:
        b.emit(b.chance.choice(("h.mul_(2.0)", "h = (h - 0.5) / 0.25", "h = h - 0.1307")))
    if b.family == "views" and b.h[0].numel() >= 6 and b.chance.random() < 0.6:
        gate(b)
        p, q = halves(b.h.shape[1])
        plain = (f"h.view(-1, {p}, {q})", "h.unsqueeze(1)", "h.flatten(1)", f"h.view(-1, {p}, {q}).transpose(1, 2)")
        seen = b.chance.choice(plain) if b.chance.random() < 0.6 else view(b)
        b.emit(f"{seen}.clamp_(max={b.chance.choice((0.1, 1.0, 5.0, 20.0))})")
        if b.chance.random() < 0.5:
            b.emit("h = torch.cat([F.relu(h), r0], 1)")
        b.kind = "dense" if b.chance.random() < 0.6 else b.family
    elif b.chance.random() < 0.6:
        (convolve if b.h.ndim > 2 else dense)(b)
    if b.family == "extreme" and b.chance.random() < 0.4:
        corner(b, float(torch.finfo(b.h.dtype).max))


def head(b: Builder) -> None:
    """Emit logits, and what some write after them."""
    if b.undo is not None:
        # In two steps: a factor below the normal numbers is refused.
        root = math.sqrt(b.undo)
        b.emit(f"h = h * {root!r} * {root!r}" if b.chance.random() < 0.8 else f"h = h * {b.undo!r}")
    if b.h.ndim > 2:
        flatten(b)
    through(b, fill(b, nn.Linear(b.h.shape[-1], b.classes)))
    if b.chance.random() < 0.2:
        b.emit(b.chance.choice(("h = h * 0.1", "h = h + 3.0", "h = h * 1e4", "h = h * 1e-6", "h.mul_(-1.0)")))
    if b.family in ("casts", "mixed") and b.chance.random() < 0.4:
        cast(b)
    if b.family == "extreme" and b.chance.random() < 0.3:
        b.undo = None
        stretch(b)
