"""Lines of the certificate fuzz that multiply, normalise and spread what depends on the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from benchmarks.fuzz_networks import Builder


def multiply(b: Builder) -> None:
    """Emit squares, gates and products, of numbers or of matrices; some after a factor that makes them cancel."""
    c = b.chance
    lines = ["h = h * h", "h = h.square()", "h = h.pow(2)", "h = h ** 2", "h = h * h.sigmoid()", "h = h * F.relu(h)"]
    lines += ["h = h * h.tanh()", "h = h * h - h", "h = h * h.mean(-1, keepdim=True)", "h = (h - 0.5) * (h + 0.5)"]
    lines += ["h *= h.clone()", "h = h.mul(h.flip(1))", "h = h * h[..., :1]", "h = h[:, :1] * h"]
    lines += [f"h = h * {name}" for name in b.saved] + [f"h = {name} * h.sigmoid()" for name in b.saved]
    if b.h.ndim > 2:
        lines += ["h = h @ h.mT", "h = torch.matmul(h.mT, h)", "h = h.mT @ h * 0.1", "h = h.sigmoid() @ h.mT"]
    if b.h.ndim == 3:
        lines += ["h = torch.bmm(h, h.mT)", "h = torch.bmm(h.mT, F.relu(h))"]
    b.emit(c.choice(lines))


def share(b: Builder) -> None:
    """Emit softmax and norms over an example's own numbers, some of them nearly equal beside a large shift."""
    c = b.chance
    last, size = b.h.shape[-1], c.choice((1.0, 1.0, 5.0, 0.2, 40.0))
    eps = c.choice((1e-5, 1e-5, 1e-3, 0.1))
    lines = [f"h = ({size} * h).softmax(-1)", "h = F.softmax(h, 1)", f"h = F.layer_norm(h, ({last},), eps={eps})"]
    lines += [f"h = F.layer_norm(h + {size}, ({last},), eps={eps})", f"h = F.rms_norm(h, ({last},), eps={eps})"]
    lines += [f"h = F.group_norm(h, 1, eps={eps})", f"h = F.layer_norm(h, {tuple(b.h.shape[1:])}, eps={eps})"]
    if b.h.shape[1] % 2 == 0:
        lines += [f"h = F.group_norm(h, 2, eps={eps})"]
    if c.random() < 0.3:
        part = nn.LayerNorm(last, eps=eps)
        nn.init.normal_(part.weight, generator=b.noise)
        nn.init.normal_(part.bias, generator=b.noise)
        b.emit(f"h = self.{b.part(part)}(h)")
        return
    b.emit(c.choice(lines))


def attend(b: Builder) -> None:
    """Emit attention of rows to rows, with one head or with as many as there are planes."""
    if b.h.ndim == 2:
        n = b.h.shape[1]
        width = next((d for d in (4, 3, 2) if n % d == 0 and n > d), 0)
        if not width or not b.emit(f"h = h.reshape(-1, {n // width}, {width})"):
            return
    forms = ["h = F.scaled_dot_product_attention(h, h, h)", "h = (h @ h.mT).softmax(-1) @ h"]
    forms += ["h = h + F.scaled_dot_product_attention(h, 2 * h, F.relu(h), scale=0.7)"]
    forms += ["h = F.scaled_dot_product_attention(h.flip(1), h, h.tanh())", "h = (h.mT @ h * 0.5).softmax(-2)"]
    b.emit(b.chance.choice(forms))


def upsample(b: Builder) -> None:
    """Emit a transposed convolution with odd strides, padding, dilation, groups and padding behind."""
    count, c = b.h.ndim - 2, b.chance
    if count not in (1, 2):
        return
    channels = b.h.shape[1]
    groups = c.choice([1, 1, channels, 2 if channels % 2 == 0 else 1])
    stride, dilation = c.choice((1, 2, 2, 3)), c.choice((1, 1, 2))
    from benchmarks.fuzz_lines import fill, through

    part = (nn.ConvTranspose1d, nn.ConvTranspose2d)[count - 1](
        channels,
        groups * c.choice((1, 1, 2)),
        tuple(c.choice((1, 2, 3)) for _ in range(count)),
        stride=stride,
        padding=c.choice((0, 0, 1)),
        output_padding=c.choice((0, 0, max(stride, dilation) - 1)),
        groups=groups,
        bias=c.random() < 0.7,
        dilation=dilation,
    )
    through(b, fill(b, part))
