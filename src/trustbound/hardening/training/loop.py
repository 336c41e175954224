"""The one training loop.

It has no hidden state. Order, augmentation, starts and dropout of a step are functions of
(seed, attempt, epoch, step), the learning rate of the step's number; what is left (weights, buffers, the
optimizer's moments, the objective's state, sums and counters) is in the checkpoint. A run killed at any moment
and given again takes the same steps on the same numbers.
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
from trustbound.hardening.history import Epoch, Event, Progress, Stand
from trustbound.hardening.objectives import Batch, Context, Position, name_of
from trustbound.hardening.probe import Probed, accuracy
from trustbound.hardening.recipe import Recipe
from trustbound.hardening.training import checkpoint
from trustbound.hardening.training.batches import epoch_batches, hold_out, key_of
from trustbound.hardening.training.fabric import TrainingProcess
from trustbound.hardening.training.modes import Modes
from trustbound.hardening.training.optimizer import build_optimizer, factor
from trustbound.hardening.training.snapshot import Snapshot, check_state, put, take
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
        engine: TrainingProcess,
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
        self.good: Snapshot | None = None
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
        self.context = Context(
            model,
            recipe.against,
            shape=data.shape,
            rows=-(-recipe.batch_size // engine.world),
            forward=forward,
            autocast=engine.autocast,
            move=self._move,
        )
        engine.seed(key_of(recipe.seed, "state", engine.rank))
        self.state = recipe.aim.init(self.context)
        check_state(self.state, name_of(recipe.aim))
        self._share = 1.0
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
            self.context.progress = Position(epoch=stand.epoch + 1, epochs=recipe.epochs, step=step, steps=len(parts))
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
        context, updates = self.context, self.context.updates
        before = context.forwards, context.backwards
        # Processes average their gradients: weighted by its share, the mean over the batch is exact.
        self._share = len(own) * engine.world / len(part)
        batch = Batch(inputs=inputs, labels=labels, random=random)
        loss, self.state, metrics = recipe.aim.step(context, self.state, batch)
        if loss.requires_grad:
            context.update(loss)
        if context.updates == updates:
            raise InputError(
                "a step must return a loss that depends on the weights, or call `context.update`; "
                f"{name_of(recipe.aim)} did neither. Compute the loss from `context.logits`."
            )
        for name, value in {"loss": loss, **metrics}.items():
            so_far = self.sums.setdefault(name, torch.zeros((), dtype=torch.float64, device=engine.device))
            so_far += value.detach().to(torch.float64) * len(own)
        # Counted here for this process's share; every process does the same for each of its examples.
        stand.cost += Cost(
            forwards=(context.forwards - before[0]) * len(part) // len(own),
            backwards=(context.backwards - before[1]) * len(part) // len(own),
        )
        stand.seen += len(own)
        stand.examples += len(part)

    def _move(self, loss: Tensor) -> None:
        """One backward pass and one step of the optimizer."""
        self.stepper.zero_grad(set_to_none=True)
        self.engine.backward(loss if self.engine.world == 1 else loss * self._share)
        self.stepper.step()

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
            self.good = None if self.held is None else copy.deepcopy(self._snapshot())
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
        if self.folder is None:
            return
        now, good = self._of_all(self._snapshot()), self._of_all(self.good)
        if self.engine.rank != 0:
            return
        self.stand.sums = {name: float(value) for name, value in self.sums.items()}
        checkpoint.save(
            self.folder,
            {
                "recipe": json.dumps(self.recipe.to_json(), sort_keys=True),
                "data": self.data.sha256,
                "stand": self.stand.to_text(),
                "now": now,
                "good": good,
            },
        )

    def restore(self, content: Mapping[str, Any]) -> None:
        """Continue where a checkpoint was written."""
        self.stand = Stand.from_text(content["stand"])
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=self.engine.device)
            for name, value in self.stand.sums.items()
        }
        self.good = None if content["good"] is None else self._own(content["good"])
        self._put(self._own(content["now"]))
        if not self.finished:
            place = f"resumed in epoch {self.stand.epoch + 1} after {self.stand.step} steps"
            self.stand.events.append(Event(epoch=self.stand.epoch + 1, kind="resumption", text=place))

    def _snapshot(self) -> Snapshot:
        return take(self.model, self.optimizer, self.state)

    def _put(self, snapshot: Snapshot) -> None:
        self.state = put(snapshot, self.model, self.optimizer, self.engine.device)

    def _of_all(self, snapshot: Snapshot | None) -> Snapshot | None:
        """The same with the states of all processes, which may differ."""
        return None if snapshot is None else {**snapshot, "state": self.engine.gathered(snapshot["state"])}

    def _own(self, snapshot: Snapshot) -> Snapshot:
        """The same with this process's state alone."""
        return {**snapshot, "state": snapshot["state"][self.engine.rank]}
