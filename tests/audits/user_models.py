"""Networks as people write them: around one linear classifier whose true robust accuracy is known."""

import collections
import dataclasses

import numpy as np
import torch
from torch import nn

FEATURES, CLASSES = 6, 3


class Around(nn.Module):
    """The classifier (B, 6) → (B, 3), and whatever a subclass does to inputs and outputs."""

    def __init__(self, weight, bias):
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def forward(self, inputs):
        return self.head(inputs)


class CastsIn(Around):
    def forward(self, inputs):
        return self.head(inputs.float())


class CastsOut(Around):
    def forward(self, inputs):
        return self.head(inputs).float()


class HalvesOut(Around):
    def forward(self, inputs):
        return self.head(inputs).half()


class FixedKernel(Around):
    """A constant in float32 that no `.double()` reaches."""

    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.mixing = torch.eye(FEATURES)

    def forward(self, inputs):
        return self.head(inputs @ self.mixing)


class NumpyInside(Around):
    def forward(self, inputs):
        values = np.asarray(inputs.detach().cpu().numpy(), dtype=np.float32)
        return self.head(torch.from_numpy(values.copy()))


class ReturnsTuple(Around):
    def forward(self, inputs):
        return self.head(inputs), inputs


class ReturnsList(Around):
    def forward(self, inputs):
        return [inputs, self.head(inputs)]


class ReturnsDict(Around):
    def forward(self, inputs):
        return {"features": inputs, "logits": self.head(inputs)}


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: object = None


class ReturnsDataclass(Around):
    def forward(self, inputs):
        return Answer(self.head(inputs))


Named = collections.namedtuple("Named", ["logits", "hidden"])


class ReturnsNamedtuple(Around):
    def forward(self, inputs):
        return Named(self.head(inputs), inputs)


class Recurrent(nn.Module):
    """A recurrent network over the features, with a first state of its own in float32."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.cells = kind(1, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, inputs):
        start = torch.zeros(1, len(inputs), 8)
        state = (start, start) if self.kind is nn.LSTM else start
        return self.head(self.cells(inputs.unsqueeze(2), state)[0][:, -1])


class BatchNormInTraining(Around):
    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.norm = nn.BatchNorm1d(FEATURES)

    def forward(self, inputs):
        return self.head(self.norm(inputs))


class SequenceFirst(Around):
    """(B, T, 1) read as (T, B, 1): it answers each step, not each example."""

    def forward(self, inputs):
        return self.head(inputs[:1].expand(FEATURES + 7, FEATURES))


class AlwaysRaises(Around):
    def forward(self, inputs):
        raise KeyError("no such layer\nand a second line")


class RaisesOnLargeBatches(Around):
    def forward(self, inputs):
        if len(inputs) > 8:
            raise RuntimeError("this engine was built for batches of at most 8")
        return self.head(inputs)


class RaisesInsideTheBall(Around):
    """Refuses inputs that no clean example is: more than 0.7 in the first feature."""

    def forward(self, inputs):
        assert bool((inputs[:, 0] < 0.7).all()), "sensor out of range"
        return self.head(inputs)


class RaisesInBackward(Around):
    class Stops(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs):
            return inputs.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise NotImplementedError("this kernel has no derivative")

    def forward(self, inputs):
        return self.head(self.Stops.apply(inputs))


class RaisesInFloat64(Around):
    def forward(self, inputs):
        if inputs.dtype == torch.float64:
            raise TypeError("Got unsupported ScalarType Double")
        return self.head(inputs)


class DependsOnTheBatch(Around):
    def forward(self, inputs):
        return self.head(inputs - inputs.mean(dim=0, keepdim=True) + 0.5)


class NanOutside(Around):
    """NaN beyond a plane that some examples can be pushed across, none of them clean."""

    def forward(self, inputs):
        return self.head(inputs) + 0.0 * (0.7 - inputs[:, :1]).sqrt()


class WantsBytes(Around):
    def forward(self, inputs):
        if inputs.dtype != torch.uint8:
            raise TypeError(f"expected uint8 pixels, got {inputs.dtype}")
        return self.head(inputs / 255)


class ListOfTensors(Around):
    def forward(self, inputs):
        first, second = inputs  # two modalities
        return self.head(first) + self.head(second)


class ChannelsLast(Around):
    """(B, H, W, C) inputs, as other libraries store pictures."""

    def forward(self, inputs):
        pictures = inputs.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return self.head(pictures.flatten(1))


class OneLogit(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, inputs):
        return self.head(inputs)


class Maps(Around):
    def forward(self, inputs):
        return self.head(inputs)[:, :, None, None]


class RequiresGrad(Around):
    def forward(self, inputs):
        if not inputs.requires_grad:
            inputs = inputs.detach().requires_grad_(True)
        with torch.enable_grad():
            return self.head(inputs)


class NoGrad(Around):
    def forward(self, inputs):
        with torch.no_grad():
            return self.head(inputs)


class Inference(Around):
    def forward(self, inputs):
        with torch.inference_mode():
            return self.head(inputs)


class Detached(Around):
    def forward(self, inputs):
        return self.head(inputs.detach())


class Complex(Around):
    """A complex weight in the middle: z · 1, and its real part."""

    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.phase = nn.Parameter(torch.ones(FEATURES, dtype=torch.complex64))

    def forward(self, inputs):
        return self.head((inputs * self.phase).real)


class ComplexOut(Around):
    def forward(self, inputs):
        return self.head(inputs) + 0j


class NoParameters(nn.Module):
    def forward(self, inputs):
        return torch.stack((inputs[:, 0], inputs[:, 1], inputs[:, 2:].mean(1)), dim=1)


class WritesIntoInputs(Around):
    def forward(self, inputs):
        inputs *= 1.0
        inputs += 0.25
        return self.head(inputs - 0.25)


class KeepsState(Around):
    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.history = []

    def forward(self, inputs):
        self.seen += len(inputs)
        self.history.append(float(inputs.detach().mean()))
        return self.head(inputs)


class Drifts(Around):
    """Its answers change with the number of calls."""

    def __init__(self, weight, bias):
        super().__init__(weight, bias)
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        return self.head(inputs) + 0.05 * (self.calls % 7)


class Random(Around):
    def forward(self, inputs):
        return self.head(inputs + 0.05 * torch.randn_like(inputs))


class RandomOutside(Around):
    """Chance that no seed reaches."""

    def forward(self, inputs):
        return self.head(inputs) + 0.2 * torch.from_numpy(
            np.random.default_rng().standard_normal((len(inputs), CLASSES)).astype(np.float32)
        )


class Wide(nn.Module):
    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, inputs):
        return self.head(inputs)


def hooked(module):
    """With a hook that prints and one that changes the output."""
    module.head.register_forward_pre_hook(lambda layer, given: print("layer called"))
    module.head.register_forward_hook(lambda layer, given, output: output * 2.0)
    return module


def meta(module):
    return module.to("meta")


def int8(module):
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
