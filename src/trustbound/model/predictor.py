"""Models that are no torch module: any callable over arrays, of which decisions, scores or gradients are seen."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.files.contents import contents_digest
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task

Array = np.ndarray[Any, Any]

#: What a predictor may show, from the least: names of `threat.Access`.
SHOWS = ("decisions", "scores", "gradients")

#: A probability counts as no less, so that its logarithm is a number.
_LEAST = 1e-12


class Predictor(nn.Module):
    """A callable over arrays in place of a module: inputs (B, *F) in, scores (B, C) or decisions (B,) out.

    Of another task than classification the scores are its outputs: of a regression numbers (B,) or (B, K).

    Arrays are float32, as the search holds its inputs. Decisions become one-hot rows. The callable must answer each row
    by itself, and the same row the same way.

    Parameters
        function    (B, *F) array → (B, C) scores or, with `shows` "decisions", (B,) class numbers.
        shows       "decisions" or "scores".
        classes     how many there are; needed for decisions.
        task        what the scores mean.
        gradient    (inputs (B, *F), weights (B, C)) → (B, *F): the gradient of the weighted sum of scores. With it the
                    predictor shows gradients too.

    Raises      InputError for answers of another kind or shape.

    >>> model = Predictor(lambda rows: (rows[:, 0] > 0.5).astype(int), shows="decisions", classes=2)
    >>> model(torch.tensor([[0.9], [0.1]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    def __init__(
        self,
        function: Callable[[Array], Any],
        *,
        shows: str = "scores",
        classes: int | None = None,
        gradient: Callable[[Array, Array], Any] | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        super().__init__()
        _check_shows(shows)
        if shows == "decisions" and (classes is None or gradient is not None):
            raise InputError(
                "a predictor that shows decisions needs `classes`, the number of its classes, and has no gradient"
            )
        if shows == "decisions" and not task.plain:
            raise InputError(f"decisions are class numbers, which {task.name} has none of; show scores: {task.returns}")
        self.function = function
        self.task = task
        self.shows = "gradients" if gradient is not None else shows
        self.classes = classes
        self.gradient = gradient
        self.training = False
        # Before the first question: some estimators count what they are asked.
        held = hasattr(function, "__dict__") and not inspect.isroutine(function)
        self._digest = contents_digest(function) if held else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (B, C) in float64: who adds 1e8 to all of them means the differences."""
        if self.gradient is not None:
            return cast(Tensor, _Scores.apply(inputs, self))  # type: ignore[no-untyped-call]
        return self.answers(inputs)

    def answers(self, inputs: Tensor) -> Tensor:
        """What the callable says of inputs, as a tensor of scores."""
        said = np.asarray(self.function(_array(inputs)))
        if self.shows == "decisions":
            return self._one_hot(said, len(inputs)).to(inputs.device, torch.float64)
        params = said.dtype.kind in "fiu" and said.ndim and said.shape[0] == len(inputs)
        if not params or (self.task.plain and said.ndim != 2):
            raise InputError(
                f"a predictor that shows scores must give ({len(inputs)}, C) numbers for {len(inputs)} inputs; got "
                f"shape {said.shape}, {said.dtype}. For class numbers say that it shows decisions."
                if self.task.plain
                else f"a predictor of the task {self.task.name} must give {self.task.returns} for B = {len(inputs)} "
                f"inputs; got shape {said.shape}, {said.dtype}"
            )
        return torch.from_numpy(np.ascontiguousarray(said, dtype=np.float64)).to(inputs.device)

    def _one_hot(self, said: Array, count: int) -> Tensor:
        assert self.classes is not None
        whole = said.ndim == 1 and len(said) == count and said.dtype.kind in "iub"
        if not whole or (count and not 0 <= int(said.min()) <= int(said.max()) < self.classes):
            raise InputError(
                f"a predictor that shows decisions must give ({count},) class numbers 0..{self.classes - 1}; got shape "
                f"{said.shape}, {said.dtype}" + (f", from {said.min()} to {said.max()}" if said.size else "")
            )
        return nn.functional.one_hot(torch.from_numpy(said.astype(np.int64)), self.classes)

    def digest(self) -> str | None:
        """SHA-256 of what the callable held when it was given; None where nothing tells it: functions, connections."""
        return self._digest


def _check_shows(shows: str) -> None:
    if shows not in SHOWS[:2]:
        raise InputError(f"a predictor shows decisions or scores (and gradients of its own); got {shows!r}")


class _Scores(torch.autograd.Function):
    """Scores whose gradient is the predictor's own."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, model: Predictor) -> Tensor:
        """Scores (B, C)."""
        context.save_for_backward(inputs)
        context.model = model
        return model.answers(inputs)

    @staticmethod
    def backward(context: Any, weights: Tensor) -> tuple[Tensor, None]:
        """The gradient of the weighted sum, (B, *F)."""
        (inputs,) = context.saved_tensors
        said = np.asarray(context.model.gradient(_array(inputs), _array(weights)))
        if said.shape != (wanted := tuple(inputs.shape)):
            raise InputError(f"a predictor's gradient must have its inputs' shape {wanted}; got {said.shape}")
        return torch.from_numpy(np.ascontiguousarray(said, dtype=np.float64)).to(inputs), None


def _array(values: Tensor) -> Array:
    """A copy, so that a callable that writes into its inputs changes nothing."""
    return cast(Array, values.detach().cpu().numpy().copy())


def from_estimator(estimator: Any, shows: str | None = None, classes: int | None = None) -> Predictor | None:
    """What scikit-learn and its kin call a classifier: `predict_proba`, else `predict`; None for anything else.

    Scores are log-probabilities, so that their softmax is the probability again. Class k is `classes_[k]`.

    Parameters
        shows       "scores" or "decisions" to choose between the two.
        classes     how many there are, where they are known; checked against the classifier's own.

    Raises      InputError for a classifier without what it is to show, and one with other classes.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> from_estimator(tree)(torch.tensor([[0.9]])).exp().round(decimals=6).tolist()
    [[0.0, 1.0]]
    """
    if isinstance(estimator, type):
        return None
    named = getattr(estimator, "classes_", None)
    if named is not None and np.asarray(named).dtype.kind in "iu" and list(named) != list(range(len(named))):
        raise InputError(
            f"labels count classes 0..{len(named) - 1}; {type(estimator).__name__} names its own {list(named)[:12]}. "
            "Fit it on labels that count from 0, or wrap a function that gives the places of its answers."
        )
    if not hasattr(estimator, "predict_proba") and (named is None or not hasattr(estimator, "predict")):
        return None
    kind = type(estimator).__name__
    if named is not None and classes is not None and classes != len(named):
        raise InputError(f"`classes` must be the {len(named)} of {kind}; got {classes}. Leave it out.")
    if shows == "scores" and not hasattr(estimator, "predict_proba"):
        raise InputError(f"{kind} has no predict_proba: it shows decisions alone. Leave `shows` out.")
    if shows == "decisions" and (named is None or not hasattr(estimator, "predict")):
        raise InputError(f"{kind} has no predict and classes_: it shows scores alone. Leave `shows` out.")
    if hasattr(estimator, "predict_proba") and shows != "decisions":
        return Predictor(_Probabilities(estimator), shows="scores")
    return Predictor(_Decisions(estimator), shows="decisions", classes=len(cast(Any, named)))


def estimator_behind(function: Any) -> Any:
    """The estimator that a callable of this module asks; None of any other callable, whatever it holds."""
    return function.estimator if type(function) in (_Probabilities, _Decisions) else None


class _Probabilities:
    """The logarithm of an estimator's probabilities; pictures are flattened."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, inputs: Array) -> Array:
        """(B, *F) → (B, C)."""
        chances = self.estimator.predict_proba(inputs.reshape(len(inputs), -1))
        return cast(Array, np.log(np.maximum(chances, _LEAST)))


class _Predictions:
    """What a regressor predicts; pictures are flattened."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, inputs: Array) -> Array:
        """(B, *F) → (B,) or (B, K)."""
        return cast(Array, np.asarray(self.estimator.predict(inputs.reshape(len(inputs), -1))))


class _Decisions:
    """The places of an estimator's answers among its classes; pictures are flattened."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def __call__(self, inputs: Array) -> Array:
        """(B, *F) → (B,)."""
        said = self.estimator.predict(inputs.reshape(len(inputs), -1))
        return cast(Array, np.searchsorted(self.estimator.classes_, said))


def predictor_of(
    given: Any,
    shows: str | None,
    classes: int | None,
    gradient: Callable[[Any, Any], Any] | None,
    task: Task = CLASSIFICATION,
) -> Predictor:
    """A classifier, a regressor or a callable over arrays as a module.

    Raises      InputError for anything else.

    >>> predictor_of(lambda rows: rows, None, None, None).shows
    'scores'
    """
    if shows is not None:
        _check_shows(shows)
    plain = shows is None and gradient is None
    told = from_estimator(given, shows, classes) if task.plain and (plain or not callable(given)) else None
    if told is not None:
        if gradient is not None:
            raise InputError(
                f"`gradient` belongs to a function of scores, and {type(given).__name__} is a classifier. Wrap a "
                "function over arrays that gives the scores whose gradient it is."
            )
        return told
    if plain and not task.plain and hasattr(given, "predict") and not isinstance(given, type):
        return Predictor(_Predictions(given), task=task)
    if not callable(given) or isinstance(given, type):
        came = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise InputError(
            "`module` must be a torch.nn.Module, a fitted classifier with predict_proba or predict, or a callable over "
            f"arrays; got {came}. A fitted regressor needs task='regression:tolerance=…'."
        )
    return Predictor(given, shows=shows or "scores", classes=classes, gradient=gradient, task=task)
