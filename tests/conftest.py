"""What tests of several rooms are given."""

import pytest
import torch

import trustbound as tb
from trustbound.model import build


@pytest.fixture(scope="session")
def digits_network():
    """A function from an activation's name to a small network that has seen the digits."""

    def trained(activation="relu"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = build("fc", widths=[12], input_shape=[1, 8, 8], classes=10, activation=activation)
            train = tb.load_data("digits", split="train")
            optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
            for _ in range(40):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(train.inputs), train.labels).backward()
                optimizer.step()
        return module.eval()

    return trained
