"""Lightning Fabric, behind the few words that the loop needs: device, precision, processes."""

from __future__ import annotations

import contextlib
import os
import random as python_random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.errors import InputError, MissingDependencyError
from trustbound.hardening.recipe import Recipe


@dataclass(frozen=True, eq=False)
class TrainingProcess:
    """One process of a training.

    Parameters
        fabric          Lightning's Fabric, launched.
        rank, world     this process, and how many share each batch.
    """

    fabric: Any
    rank: int
    world: int

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return torch.device(self.fabric.device)

    def setup(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Callable[[Tensor], Tensor], Any]:
        """Move the model and give back its outer forward and its optimizer, both in the right precision."""
        forward, wrapped = self.fabric.setup(model, optimizer)
        return forward, wrapped

    def backward(self, loss: Tensor) -> None:
        """Backward pass to the weights, averaged over the processes."""
        self.fabric.backward(loss)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision of the forward passes, for those that bypass the wrapper."""
        context: contextlib.AbstractContextManager[object] = self.fabric.autocast()
        return context

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return values if self.world == 1 else self.fabric.all_reduce(values, reduce_op="sum")

    def agreed(self, value: Any) -> Any:
        """What the first process found, for all of them."""
        return value if self.world == 1 else self.fabric.broadcast(value)

    def gathered(self, value: Any) -> list[Any]:
        """What each process holds, in the order of their ranks."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def seed(self, key: int) -> None:
        """Seed every global generator that a layer may draw from (dropout, random resizing)."""
        # On a CPU its generator alone: `torch.manual_seed` also orders seeds for accelerators that nobody uses.
        (torch.manual_seed if self.device.type == "cuda" else torch.default_generator.manual_seed)(key)
        np.random.seed(key % 2**32)
        python_random.seed(key)


@contextlib.contextmanager
def launched(recipe: Recipe, device: torch.device) -> Iterator[TrainingProcess]:
    """Start Fabric; on exit every global generator is as it was.

    Raises      MissingDependencyError without lightning-fabric; InputError when `devices` does not agree with
                the processes that run.
    """
    with _randomness_kept(device), torch.enable_grad():
        yield _engine(recipe, device)


def _engine(recipe: Recipe, device: torch.device) -> TrainingProcess:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.devices > 1 and world != recipe.devices:
        raise InputError(
            f"devices={recipe.devices} needs as many processes; {world} run. Start them with "
            f"torchrun --nproc-per-node {recipe.devices} YOUR_SCRIPT, or train with devices=1."
        )
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingDependencyError(
            "training needs lightning-fabric, which is not installed. Install it with pip install 'trustbound[train]'."
        ) from error
    precision: Any = recipe.precision
    if recipe.devices == 1:
        where: Any = [device.index or 0] if device.type == "cuda" else 1
        fabric = Fabric(accelerator=device.type, devices=where, strategy="auto", precision=precision)
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        fabric = Fabric(
            accelerator=device.type,
            devices=local,
            num_nodes=world // local,
            strategy="ddp",
            precision=precision,
        )
    fabric.launch()
    return TrainingProcess(fabric, fabric.global_rank, fabric.world_size)


@contextlib.contextmanager
def _randomness_kept(device: torch.device) -> Iterator[None]:
    states = python_random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        try:
            yield
        finally:
            python_random.setstate(states[0])
            np.random.set_state(states[1])
