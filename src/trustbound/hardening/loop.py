"""The one training loop.

It has no hidden state. Order, augmentation, starts and dropout of a step are functions of
(seed, attempt, epoch, step), the learning rate of the step's number; what is left (weights, buffers, the
optimizer's moments, sums and counters) is in the checkpoint. A run killed at any moment and given again
takes the same steps on the same numbers.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.hardening import checkpoint
from trustbound.hardening.history import Epoch, Event, Progress, Stand
from trustbound.hardening.launch import Engine
from trustbound.hardening.objectives import Learner
from trustbound.hardening.probe import Probed, accuracy
from trustbound.hardening.recipe import Recipe
from trustbound.hardening.steps.batches import epoch_batches, hold_out, key_of
from trustbound.hardening.steps.modes import Modes
from trustbound.hardening.steps.optimizer import build_optimizer, factor
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Random

#: Seconds between two calls of the progress callback within an epoch: reading the loss waits for the device.
_QUIET = 0.1


class Loop:
    """One training: `restore` when there is a checkpoint, then `run`."""

    def __init__(
        self,
        model: Model,
        data: LabelledSet,
        recipe: Recipe,
        engine: Engine,
        *,
        run: Path | None,
        validation: LabelledSet | None,
        progress: Callable[[Progress], None] | None,
        save_seconds: float,
        modes: Modes,
    ) -> None:
        self.model, self.data, self.recipe, self.engine = model, data, recipe, engine
        self.folder, self.validation, self.progress = run, validation, progress
        self.save_seconds, self.modes = save_seconds, modes
        self.stand = Stand()
        self.good: dict[str, Any] | None = None
        self.rows, self.held = torch.arange(len(data)), None
        if recipe.against is not None and recipe.probe is not None:
            self.rows, held = hold_out(data.labels, recipe.probe.examples, recipe.seed)
            self.held = data.take(held) if len(held) else None
        thawed = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = build_optimizer(
            recipe.optimizer,
            thawed,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        forward, self.stepper = engine.setup(model, optimizer)
        self.optimizer = optimizer
        allowed = None if recipe.against is None else recipe.against.allowed
        self.learner = Learner(model, allowed, forward=forward, autocast=engine.autocast)
        self.sums: dict[str, Tensor] = {}
        self._saved = self._told = self._started = time.perf_counter()
        self._done = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self.stand.stopped or self.stand.epoch >= self.recipe.epochs

    def run(self) -> None:
        """Train to the end of the recipe."""
        self._saved = self._told = self._started = time.perf_counter()
        while not self.finished:
            self._epoch()
        self.model.zero_grad(set_to_none=True)

    def _epoch(self) -> None:
        stand, recipe = self.stand, self.recipe
        self.modes.learn()
        words = (recipe.seed, stand.attempt, stand.epoch)
        parts = epoch_batches(self.rows, recipe.batch_size, key_of(*words, "order"))
        total = recipe.epochs * len(parts)
        for step in range(stand.step, len(parts)):
            started = time.perf_counter()
            self._step(parts[step], words, step, self._rate(stand.epoch * len(parts) + step, total))
            stand.step = step + 1
            stand.seconds += time.perf_counter() - started
            self._tell(len(parts))
            due = time.perf_counter() - self._saved >= self.save_seconds
            if due and self.engine.world == 1 and stand.step < len(parts):
                self.save()
        self._close(self._rate((stand.epoch + 1) * len(parts) - 1, total))

    def _rate(self, done: int, total: int) -> float:
        halved: float = 0.5**self.stand.attempt
        return self.recipe.learning_rate * halved * factor(self.recipe.schedule, done, total)

    def _step(self, part: Tensor, words: tuple[int, ...], step: int, rate: float) -> None:
        engine, recipe, stand = self.engine, self.recipe, self.stand
        own = part.tensor_split(engine.world)[engine.rank]
        engine.seed(key_of(*words, "layers", step, engine.rank))
        inputs = self.data.batch(own).to(engine.device)
        labels = self.data.labels[own].to(engine.device)
        random = Random(key_of(*words, "start"), own.to(engine.device))
        if recipe.augmentation:
            fill = float(self.data.box.low)
            inputs = recipe.augmentation.apply(inputs, random.stream("augmentation"), fill)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        before = self.learner.forwards, self.learner.backwards
        loss, facts = recipe.aim.loss(self.learner, inputs, labels, random)
        self.stepper.zero_grad(set_to_none=True)
        # Processes average their gradients: weighted by its share, the mean over the batch is exact.
        engine.backward(loss if engine.world == 1 else loss * (len(own) * engine.world / len(part)))
        self.stepper.step()
        for name, value in {"loss": loss, **facts}.items():
            so_far = self.sums.setdefault(name, torch.zeros((), dtype=torch.float64, device=engine.device))
            so_far += value.detach().to(torch.float64) * len(own)
        # Counted here for this process's share; every process does the same for each of its examples.
        stand.cost += Cost(
            forwards=(self.learner.forwards - before[0]) * len(part) // len(own),
            backwards=(self.learner.backwards - before[1]) * len(part) // len(own),
        )
        stand.seen += len(own)
        stand.examples += len(part)

    def _close(self, rate: float) -> None:
        """After the last step of an epoch: measure, judge, keep or roll back, save."""
        stand = self.stand
        names = sorted(self.sums)
        counts = [self.sums[name] for name in names] + [torch.tensor(float(stand.seen), dtype=torch.float64)]
        totals = self.engine.total(torch.stack([value.to(self.engine.device) for value in counts])).tolist()
        means = {name: value / totals[-1] for name, value in zip(names, totals, strict=False)}
        self._refuse_divergence(means["loss"])
        clean = None if self.validation is None else self.engine.agreed(accuracy(self.model, self.validation))
        probed, best = self._probe(), self._best()
        collapsed = (
            probed is not None
            and best is not None
            and self._rule.collapsed(probed.robust, best=best, examples=len(self.held or ()))
        )
        stand.history.append(
            Epoch(
                number=stand.epoch + 1,
                attempt=stand.attempt,
                kept=not collapsed,
                learning_rate=rate,
                loss=means.pop("loss"),
                facts=means,
                validation_accuracy=clean,
                probe_accuracy=None if probed is None else probed.clean,
                probe_robust_accuracy=None if probed is None else probed.robust,
                seconds=stand.seconds,
            )
        )
        stand.cost += Cost(seconds=stand.seconds)
        if collapsed and probed is not None and best is not None:
            self._roll_back(probed.robust, best)
        else:
            stand.epoch += 1
            self.good = None if self.held is None else copy.deepcopy(self._tensors())
        stand.step, stand.seen, stand.seconds = 0, 0, 0.0
        self.sums.clear()
        self.save()

    @property
    def _rule(self) -> Any:
        return self.recipe.probe

    def _probe(self) -> Probed | None:
        if self.held is None or self.recipe.against is None:
            return None
        probed: Probed = self.engine.agreed(
            self._rule.measure(self.model, self.held, self.recipe.against, self.recipe.seed)
        )
        self.stand.probe_cost += probed.cost
        return probed

    def _best(self) -> float | None:
        kept = [row.probe_robust_accuracy for row in self.stand.history if row.kept]
        return max((value for value in kept if value is not None), default=None)

    def _roll_back(self, robust: float, best: float) -> None:
        stand = self.stand
        if self.good is not None:
            self._put(self.good)
        stand.attempt += 1
        stand.stopped = stand.attempt > self._rule.retries
        then = (
            f"training stops with the weights of epoch {stand.epoch}"
            if stand.stopped
            else f"epoch {stand.epoch + 1} is repeated from the weights of epoch {stand.epoch} at half the "
            "learning rate"
        )
        what = (
            f"catastrophic overfitting: PGD accuracy on held-out training examples fell to {robust:.1%} from "
            f"{best:.1%}; {then}"
        )
        stand.events.append(Event(epoch=stand.epoch + 1, kind="roll-back", text=what))

    def _refuse_divergence(self, loss: float) -> None:
        whole = all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters())
        if not (math.isfinite(loss) and whole):
            raise InputError(
                f"training must stay finite; in epoch {self.stand.epoch + 1} the loss became {loss} "
                f"(learning_rate={self.recipe.learning_rate:g}, optimizer={self.recipe.optimizer}). Lower the "
                "learning rate, or train in 32-true precision."
            )

    def _tell(self, steps: int) -> None:
        now = time.perf_counter()
        self._done += 1
        if self.progress is None or (now - self._told < _QUIET and self.stand.step < steps):
            return
        self._told = now
        spent = now - self._started
        left = (self.recipe.epochs - self.stand.epoch) * steps - self.stand.step
        self.progress(
            Progress(
                epoch=self.stand.epoch + 1,
                epochs=self.recipe.epochs,
                step=self.stand.step,
                steps=steps,
                loss=float(self.sums["loss"]) / max(self.stand.seen, 1),
                seconds=spent,
                eta=spent / self._done * left,
            )
        )

    def save(self) -> None:
        """Write the checkpoint, if there is a run directory; only the first process does."""
        self._saved = time.perf_counter()
        if self.folder is None or self.engine.rank != 0:
            return
        self.stand.sums = {name: float(value) for name, value in self.sums.items()}
        checkpoint.save(
            self.folder,
            {
                "recipe": json.dumps(self.recipe.to_json(), sort_keys=True),
                "data": self.data.sha256,
                "stand": self.stand.to_text(),
                "now": self._tensors(),
                "good": self.good,
            },
        )

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue where a checkpoint was written."""
        self.stand = Stand.from_text(content["stand"])
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self.engine.device)
            for name, value in self.stand.sums.items()
        }
        self.good = content["good"]
        self._put(content["now"])
        if not self.finished:
            place = f"resumed in epoch {self.stand.epoch + 1} after {self.stand.step} steps"
            self.stand.events.append(Event(epoch=self.stand.epoch + 1, kind="resumption", text=place))

    def _tensors(self) -> dict[str, Any]:
        """Weights, buffers (also those that no state dict lists) and the optimizer's moments."""
        tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return {
            "weights": {name: tensor.detach() for name, tensor in tensors.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def _put(self, tensors: Mapping[str, Any]) -> None:
        """Write tensors of `_tensors` back in place."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        with torch.no_grad():
            for name, tensor in tensors["weights"].items():
                own[name].copy_(tensor)
        self.optimizer.load_state_dict(copy.deepcopy(tensors["optimizer"]))
