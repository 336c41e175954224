"""The only window to the model in a search: it enforces access, counts, and leaves no trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from trustbound.attacks.model_access.compiled import SurrogateLoss, programs
from trustbound.attacks.model_access.detector import verdicts
from trustbound.attacks.model_access.error_context import ErrorContext
from trustbound.attacks.model_access.failing_rows import halved, said
from trustbound.attacks.model_access.gradient_evaluation import Apply, GradientEvaluation, flat
from trustbound.attacks.model_access.granted import Surrogate, chosen, given, spread
from trustbound.attacks.model_access.query_accounting import Passes
from trustbound.attacks.model_access.smooth_relu import SmoothBackward, measure_scales
from trustbound.attacks.model_access.untouched import stand_ins, untouched
from trustbound.attacks.refusals import whole
from trustbound.errors import BackwardError, InputError, ModelError, UnsupportedError
from trustbound.model.predictor import Predictor
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.tasks.view import View
from trustbound.threat import Access

T = TypeVar("T")


class Oracle:
    """Counted access to a model for `examples` examples; use as a context manager.

    Parameters
        model       what is under test.
        access      what the adversary may see: decisions come as one-hot rows, gradients at the top level.
        examples    how many examples own the rows; counts are kept for each.
        batch_size  rows per model call; halved, and noted in `events`, when memory runs out.
        budget      forwards allowed per example. A call is granted before it is made (`model_access/passes.py`): rows
                    of an example that cannot pay for all of its own are not asked about and come back as zeros.
        compile     run full batches through a compiled gradient function (`model_access/compiled.py`); a predictor has
                    none to compile.
        key         seeds the global generators that a random model may use; they are restored on exit.
        task        who asks, in words, and
        names       (examples,) what each example is called: what an exception of the model is reported with.
        silenced    the examples' clean inputs (examples, *F), where an input on which the model raises an exception,
                    asked about it alone, is to count as one that it does not answer: a row of NaN, noted in `events`.
                    None lets the exception surface.
        view        through which outputs are seen where they are no logits of classes: scores (R, M) for every attack.

    Restored on exit: weights' requires_grad, buffers, hooks, global random state. Modes and `.grad` are never
    touched: gradients are taken with respect to the inputs alone.

    >>> from trustbound.model.wrapping import wrap
    >>> with Oracle(wrap(torch.nn.Linear(2, 3)), examples=4) as oracle:
    ...     outputs = oracle.outputs(torch.rand(4, 2), torch.arange(4))
    >>> oracle.cost.forwards
    4
    """

    def __init__(
        self,
        model: Model,
        *,
        examples: int,
        access: Access = Access.GRADIENTS,
        batch_size: int | None = None,
        budget: int | None = None,
        key: int = 0,
        compile: bool = False,
        task: str = "",
        names: Tensor | None = None,
        silenced: Tensor | None = None,
        view: View | None = None,
    ) -> None:
        self.model = model
        self.view = view
        self.names = names
        self.silenced = silenced
        self._error_context = ErrorContext(model.name, task, names)
        self._detector_error_context = ErrorContext(f"the detector of {model.name}", task, names)
        self.access = access
        self.batch_size = default_batch_size(model) if batch_size is None else whole("batch_size", batch_size)
        self.passes = Passes(examples, budget)
        self.draws = model.adaptation.draws
        self.detector = model.adaptation.detector
        self.rejections = [0, 0]  # inputs that the detector rejected, of so many that it was asked about
        self.events: list[str] = []
        self._shape: tuple[int, ...] | None = None  # of an output as it is seen; not known before the first call
        self._key = key
        compiles = compile and self.draws == 1 and not isinstance(model.module, Predictor)
        self._compiled = programs(model, self.batch_size) if compiles else None
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Oracle:
        self._exits.enter_context(untouched(self.model, self._key))
        self._exits.enter_context(stand_ins(self.model))
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    @property
    def forwards(self) -> Tensor:
        """Forward passes of each example so far, (examples,) int64."""
        return self.passes.forwards

    @property
    def backwards(self) -> Tensor:
        """Backward passes of each example so far, (examples,) int64."""
        return self.passes.backwards

    @property
    def price(self) -> int:
        """Forwards that one look at a point may cost."""
        return price_of(self.model)

    @property
    def cost(self) -> Cost:
        """The sum over examples."""
        forwards = int(self.forwards.sum())
        asked = 0 if self.access is Access.GRADIENTS else forwards
        purposes = self.passes.spent()
        return Cost(forwards=forwards, backwards=int(self.backwards.sum()), queries=asked, purposes=purposes)

    def booking(self, purpose: str) -> contextlib.AbstractContextManager[None]:
        """What is asked meanwhile is for another purpose than a search (`record.cost.PURPOSES`)."""
        return self.passes.booking(purpose)

    def outputs(self, points: Tensor, owner: Tensor) -> Tensor:
        """Outputs (R, *O) of points (R, *F), each row owned by an example; one-hot for decisions only.

        Logits (R, C) of a classification, scores (R, M) where there is a view.
        """
        granted = self.passes.grant(owner, self.price)
        if granted is not None:
            outputs = self._outputs(points[granted], owner[granted]) if len(granted) else self._nothing(points)
            return spread(outputs, granted, len(points))
        return self._outputs(points, owner)

    def _outputs(self, points: Tensor, owner: Tensor) -> Tensor:
        with torch.no_grad():
            parts = self._each(
                owner,
                lambda rows: self._averaged(points[rows], owner, rows),
                lambda rows: self._unanswered(points[rows], owner[rows]),
                seen="decisions" if self.access is Access.DECISIONS else "scores",
            )
        outputs = (parts[0] if len(parts) == 1 else torch.cat(parts)).detach()  # some modules turn gradients on
        if self.access is Access.DECISIONS:
            outputs = self.model.task.decisions(outputs)
        return self._seen(outputs, owner)

    def look_through(self, view: View | None, outputs: Tensor) -> Tensor:
        """See outputs through a view from here on; returns those of all examples, in their order, as it shows them."""
        self.view = view
        return self._seen(outputs, torch.arange(len(outputs), device=outputs.device))

    def _seen(self, outputs: Tensor, owner: Tensor) -> Tensor:
        """Outputs (R, *O) of examples as they are seen, whose shape is remembered."""
        seen = outputs if self.view is None else self.view(outputs, owner)
        self._shape = tuple(seen.shape[1:])
        return seen

    def _nothing(self, points: Tensor) -> Tensor:
        """The outputs of no rows, (0, *O)."""
        if self._shape is None:
            raise InputError(
                f"the budget must pay for one look at an example, {self.price} forwards beside what is kept back for "
                f"the last check; it is {self.passes.budget}. Raise it."
            )
        return points.new_zeros(0, *self._shape)

    def rejected(self, points: Tensor, owner: Tensor, asked: Tensor) -> Tensor:
        """Which of the points (R, *F) that are asked about, (R,) bool, the declared detector rejects, (R,) bool.

        Without a detector none. An answer of the detector is booked as one forward of the example; who could pay for
        the look at the point has paid for this one too.
        """
        rejected = torch.zeros_like(asked)
        rows = asked.nonzero()[:, 0] if self.detector is not None else asked.new_zeros(0)
        if not len(rows):
            return rejected
        points, owner = points[rows], owner[rows.to(owner.device)]
        parts = self._each(owner, lambda part: self._detected(points[part], owner[part]), seen="detector", draws=1)
        rejected[rows] = torch.cat(parts)
        self.rejections[0] += int(rejected.sum())
        self.rejections[1] += len(rows)
        return rejected

    def _detected(self, points: Tensor, owner: Tensor) -> Tensor:
        assert self.detector is not None
        with torch.no_grad(), self._detector_error_context(points, owner):
            return verdicts(self.detector, points)

    def scales(self, points: Tensor, owner: Tensor) -> Tensor:
        """Spread of each ReLU's input at points (R, *F): (R, L), for the smooth backward pass; one forward."""
        granted = self.passes.grant(owner, 1)
        if granted is None:
            return self._scales(points, owner)
        if not len(granted):
            return points.new_zeros(len(points), 1)
        return spread(self._scales(points[granted], owner[granted]), granted, len(points))

    def _scales(self, points: Tensor, owner: Tensor) -> Tensor:
        def measured(rows: slice) -> Tensor:
            with self._error_context(points[rows], owner, rows):
                return measure_scales(self.model, points[rows], self.model.name)

        return torch.cat(self._each(owner, measured, seen="gradients", draws=1))

    def gradient(
        self,
        theta: Tensor,
        owner: Tensor,
        surrogate: Surrogate,
        apply: Apply | None = None,
        smooth: SmoothBackward | None = None,
    ) -> GradientEvaluation:
        """Gradient of a surrogate with respect to θ (R, *P).

        Parameters
            surrogate   (scores, rows) → (r,) to climb, for one chunk of rows; of bare outputs where its `raw` is true.
            apply       (θ of some rows, the rows) → adversarial inputs; the identity when None.
            smooth      a smoother derivative for ReLU-like activations in the backward pass.

        Raises      UnsupportedError when the threat gives no gradients, or none flows back to the inputs.
        """
        if self.access < Access.GRADIENTS:
            raise UnsupportedError(
                f"gradients need access=gradients; the threat gives {self.access.name.lower()}. "
                "Choose an attack that needs less: `trustbound list attacks`."
            )
        granted = self.passes.grant(owner, self.price)
        if granted is None:
            return self._gradient(theta, owner, surrogate, apply, smooth)
        if not len(granted):
            outputs = spread(self._nothing(theta), granted, len(theta))
            points = (given if apply is None else apply)(theta, slice(0, len(theta)))
            return GradientEvaluation(torch.zeros_like(theta), outputs, theta.new_zeros(len(theta)), points)
        part = self._gradient(
            theta[granted],
            owner[granted],
            chosen(surrogate, granted),
            None if apply is None else lambda part, rows: apply(part, granted[rows]),
            None if smooth is None else smooth.select(granted),
        )
        told = part.gradient, part.outputs, part.loss, part.points
        return GradientEvaluation(*(spread(one, granted, len(theta)) for one in told))

    def _gradient(
        self,
        theta: Tensor,
        owner: Tensor,
        surrogate: Surrogate,
        apply: Apply | None,
        smooth: SmoothBackward | None,
    ) -> GradientEvaluation:
        points = given if apply is None else apply
        parts = self._each(
            owner,
            lambda rows: self._slope(theta, owner, rows, surrogate, apply, smooth),
            lambda rows: self._flat(theta[rows], owner[rows], points(theta[rows], rows)),
            seen="gradients",
        )
        if len(parts) == 1:
            return parts[0]
        return GradientEvaluation(
            torch.cat([part.gradient for part in parts]),
            torch.cat([part.outputs for part in parts]),
            torch.cat([part.loss for part in parts]),
            theta if apply is None else torch.cat([part.points for part in parts]),
        )

    def _slope(
        self,
        theta: Tensor,
        owner: Tensor,
        rows: slice,
        surrogate: Surrogate,
        apply: Apply | None,
        smooth: SmoothBackward | None,
    ) -> GradientEvaluation:
        if self._compiled is not None and apply is None and smooth is None and self.view is None:
            part = theta[rows].detach()
            # A batch that is filled up asks about rows that nobody paid for.
            whole = self.passes.budget is None or len(part) == self.batch_size
            if whole and isinstance(surrogate, SurrogateLoss) and self._compiled.serves(surrogate, len(part)):
                with self._error_context(part, owner, rows):
                    return GradientEvaluation(*self._compiled(part, surrogate, rows), part)
        leaf = theta[rows].detach().requires_grad_(True)
        with torch.enable_grad():
            points = leaf if apply is None else apply(leaf, rows)
            with contextlib.nullcontext() if smooth is None else smooth.on(rows, len(points)):
                outputs = self._averaged(points, owner, rows)
            seen = self._seen(outputs, owner[rows])
            loss = surrogate(outputs if getattr(surrogate, "raw", False) else seen, rows)
            gradient = None
            if loss.requires_grad:
                with self._error_context(points, owner, rows, BackwardError):
                    gradient = torch.autograd.grad(loss, leaf, torch.ones_like(loss), allow_unused=True)[0]
        if gradient is None:
            raise flat(self.model.name)
        # An expanded gradient (of a sum over features, say) is one number in memory: attacks write into theirs.
        return GradientEvaluation(gradient.contiguous(), seen.detach(), loss.detach(), points.detach())

    def _averaged(self, points: Tensor, owner: Tensor, rows: slice) -> Tensor:
        with self._error_context(points, owner, rows):
            if self.draws == 1:
                return self.model(points)  # type: ignore[no-any-return]
            return torch.stack([self.model(points) for _ in range(self.draws)]).mean(dim=0)

    def _unanswered(self, points: Tensor, owner: Tensor) -> Tensor:
        """The outputs of rows that the model does not answer, (R, *O), once it has answered their clean inputs alone.

        Raises      ModelError when it does not: then it is no matter of the inputs that were tried.
        """
        assert self.silenced is not None
        self.passes.count(owner, forwards=1)
        with torch.no_grad(), self._error_context(points, owner):
            shape = self.model(self.silenced[owner.to(self.silenced.device)]).shape[1:]
        return points.new_full((len(points), *shape), torch.nan)

    def _flat(self, theta: Tensor, owner: Tensor, points: Tensor) -> GradientEvaluation:
        """What is known of rows that the model does not answer: nothing to climb."""
        outputs = self._unanswered(points, owner)
        nothing = outputs.new_full((len(points),), torch.nan)
        return GradientEvaluation(torch.zeros_like(theta), self._seen(outputs, owner), nothing, points)

    def _each(
        self,
        owner: Tensor,
        call: Callable[[slice], T],
        blank: Callable[[slice], T] | None = None,
        *,
        seen: str,
        draws: int | None = None,
    ) -> list[T]:
        """Call for all rows (R,), chunk by chunk; when memory runs out, with half as many rows, and that is noted.

        Each call is booked that was answered or raised. Where exceptions are silenced, the rows on which the model
        raises one are found by halving and get `blank`.
        """
        asked = self._booked(owner, call, seen, self.draws if draws is None else draws)
        parts: list[T] = []
        first, count = 0, len(owner)
        while first < count:
            rows = slice(first, min(first + self.batch_size, count))
            try:
                parts.append(asked(rows))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                self.events.append(f"out of memory: batch size halved to {self.batch_size}")
                continue
            except BackwardError:
                raise
            except ModelError as error:
                if blank is None or self.silenced is None:
                    raise
                parts += self._halved(rows, asked, blank, said(error))
            first = rows.stop
        return parts

    def _booked(self, owner: Tensor, call: Callable[[slice], T], seen: str, draws: int) -> Callable[[slice], T]:
        """A call that is booked each time: what raises has made no backward, what ran out of memory nothing at all."""

        def asked(rows: slice) -> T:
            whose = owner if len(owner) == rows.stop - rows.start else owner[rows]
            try:
                part = call(rows)
            except ModelError:
                self.passes.count(whose, forwards=draws, seen=seen)
                raise
            self.passes.count(whose, forwards=draws, backwards=draws * isinstance(part, GradientEvaluation), seen=seen)
            return part

        return asked

    def _halved(self, rows: slice, call: Callable[[slice], T], blank: Callable[[slice], T], words: str) -> list[T]:
        """What the parts of a batch give on which the model raised; noted, and the next batches are no larger."""
        found = halved(rows, call, blank)
        told = f"the model raised {words} on inputs by themselves; they count as inputs without an answer"
        if not found.alone:
            self.batch_size = found.answered
            told = f"the model raised {words} on a batch of {rows.stop - rows.start}: batch size {found.answered}"
        self.events += [] if told in self.events else [told]
        return found.parts


def price_of(model: Model) -> int:
    """Forwards that one look at a point may cost: the model's draws, and its detector's answer."""
    return model.adaptation.draws + (model.adaptation.detector is not None)


def default_batch_size(model: Model) -> int:
    """Rows per call: enough to keep the arithmetic busy, few enough to stay in the cache of a CPU."""
    return 256 if model.device.type == "cpu" else 1024
