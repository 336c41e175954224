"""Every architecture: its sizes as published, any input it claims, logits independent of neighbours."""

import inspect

import pytest
import torch
from torch import nn

from trustbound.errors import InputError
from trustbound.model import build
from trustbound.model.registry import ZOO

TINY = {
    "resnet18": {"width": 4},
    "wrn-28-10": {"depth": 10, "width": 1},
    "vit-small": {"dim": 16, "depth": 2, "heads": 2},
}


@pytest.mark.parametrize("name", ZOO.names)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_architecture_takes_every_small_picture(name, shape):
    if name == "resnet18" and shape[1] == 28:
        with pytest.raises(InputError, match="multiples of 8"):
            build(name, input_shape=shape)
        return
    module = build(name, seed=0, input_shape=shape, classes=7, **TINY.get(name, {})).eval()
    inputs = torch.rand(5, *shape)
    logits = module(inputs)
    assert logits.shape == (5, 7)
    assert torch.allclose(module(inputs[3:4]), logits[3:4], atol=1e-5)
    assert module.architecture == name
    assert module.arguments["input_shape"] == shape


@pytest.mark.parametrize("name", ZOO.names)
def test_rows_match_their_factories(name):
    row = ZOO.find(name)
    defaults = inspect.signature(ZOO.load(name)).parameters
    assert tuple(defaults["input_shape"].default) == row.input_shape
    assert defaults["classes"].default == row.classes


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_are_those_of_the_papers():
    assert _count(build("cnn-small")) == 166_406  # Wong & Kolter's MNIST network
    assert _count(build("fc", widths=[200, 200])) == 784 * 200 + 200 + 200 * 200 + 200 + 2010
    assert _count(build("resnet18")) == 11_173_962  # the CIFAR ResNet-18
    assert _count(build("cnn-large")) == 1_974_762
    with torch.device("meta"):
        assert _count(build("wrn-28-10")) == 36_479_194


def test_wide_residual_networks_have_their_depth():
    for depth in (10, 16):
        network = build("wrn-28-10", depth=depth, width=1)
        straight = [
            m
            for m in network.modules()
            if isinstance(m, nn.Conv2d | nn.Linear) and getattr(m, "kernel_size", 3) != (1, 1)
        ]
        assert len(straight) == depth - 2  # 6 n + 2; the paper's 6 n + 4 counts three shortcuts and not the last layer


def test_activation_is_used_everywhere():
    for name in ("cnn-small", "cnn-large", "fc", "resnet18", "wrn-28-10", "vit-small"):
        kinds = {
            type(m)
            for m in build(name, activation="silu", **TINY.get(name, {})).modules()
            if type(m) in (nn.ReLU, nn.SiLU, nn.GELU)
        }
        assert kinds == {nn.SiLU}


def test_seed_decides_the_weights_and_the_global_generator_stays():
    before = torch.get_rng_state()
    first, again, other = (build("fc", seed=seed, widths=[5]) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("cnn-tiny", {}, "an architecture must be one of fc, cnn-small"),
        ("fc", {"depth": 3}, "takes widths"),
        ("fc", {"widths": [0]}, "`widths`"),
        ("fc", {"activation": "swish"}, "`activation`"),
        ("fc", {"classes": 1}, "`classes`"),
        ("fc", {"input_shape": 784}, "`input_shape`"),
        ("cnn-small", {"input_shape": (784,)}, "needs pictures"),
        ("cnn-small", {"input_shape": (1, 3, 3)}, "at least 4"),
        ("wrn-28-10", {"depth": 11}, "`depth`"),
        ("vit-small", {"patch": 5}, "`patch`"),
        ("vit-small", {"heads": 3}, "`heads`"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name, arguments, said):
    with pytest.raises(InputError, match=said):
        build(name, **arguments)
