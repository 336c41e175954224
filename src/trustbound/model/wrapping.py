"""What is under test: a module, its box, its normalisation and which part of its output is the logits."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from trustbound.errors import InputError
from trustbound.model.defences.adaptation import Adaptation
from trustbound.model.files.digest import add_to
from trustbound.model.predictor import Predictor, predictor_of
from trustbound.record.box import Box, Limit
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task

if TYPE_CHECKING:
    from trustbound.model.files.origin import Origin

#: Calls that see a copy before a module is believed to leave its inputs alone.
_WATCHED = 2


class Model(nn.Module):
    """Inputs in the box → outputs of its task, logits unless another is named. Normalisation happens inside.

    Shapes      inputs (B, *F) in `box`; mean, std (F₁,) or (1,), one number per channel; returns outputs (B, *O),
                for classification logits (B, C).
    Raises      InputError when the module returns anything but outputs of its task, and for inputs that have not as
                many channels as mean and std.

    The module is held, not copied: its weights and modes are the caller's, and every public function of
    trustbound leaves them as they came.

    >>> model = Model(nn.Linear(4, 3), box=Box(0, 1))
    >>> model(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        *,
        box: Box,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        output: Callable[[Any], Tensor] | str | int | None = None,
        adaptation: Adaptation | None = None,
        name: str = "model",
        sha256: str | None = None,
        input_shape: tuple[int, ...] | None = None,
        classes: int | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        super().__init__()
        self.module = module
        self.box = box
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.output = output
        self.adaptation = adaptation or getattr(module, "adaptation", None) or Adaptation()
        self.name = name
        self.input_shape = input_shape
        self.classes = classes
        self.task = task
        self.origin: Origin | None = None
        self.box_from = "a caller"  # or "nobody", or "columns" of tables
        self._sha256 = sha256
        self.training = module.training
        self._fed = torch.float32
        self._writes: bool | None = None  # into its inputs; not known before `_WATCHED` calls
        self._watched = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (B, *O) of inputs (B, *F) in the box, which stay as they are, whatever the module does."""
        given = inputs
        if inputs.dtype != (dtype := self.dtype):
            inputs = inputs.to(dtype)
        if self.mean is not None:
            inputs = inputs - self._per_channel("mean", self.mean, inputs)
        if self.std is not None:
            inputs = inputs / self._per_channel("std", self.std, inputs)
        outputs = self._outputs(self.module(inputs) if inputs is not given else self._kept(inputs))
        if outputs.shape[0] != inputs.shape[0]:  # a length would tie an exported program to one batch size
            raise InputError(
                f"the model must answer each input of a batch, axis 0 of inputs and outputs; got outputs of shape "
                f"{tuple(outputs.shape)} for inputs of shape {tuple(inputs.shape)}. Put the batch first inside the "
                "module, or pass `output=` to wrap or load_model."
            )
        return outputs

    def fit_box(self, box: Box) -> None:
        """Take the range of a table's columns for the box, where nobody gave one; of several tables all of it."""
        if self.box_from == "columns":
            box = Box(np.minimum(self.box.low, box.low), np.maximum(self.box.high, box.high))
        if self.box_from != "a caller":
            self.box, self.box_from = box, "columns"

    def _per_channel(self, name: str, values: Tensor, inputs: Tensor) -> Tensor:
        """The numbers of the normalisation against inputs (B, *F); other counts would broadcast in silence."""
        if values.numel() not in (1, inputs.shape[1]):
            raise InputError(
                f"`{name}` must have one number per channel of the inputs; {self.name} has {values.numel()}, the "
                f"inputs of shape {tuple(inputs.shape)} have {inputs.shape[1]}. Give inputs (B, C, …) with as many "
                f"channels, or wrap the module with another `{name}`."
            )
        return values.reshape(-1, *(1,) * (inputs.dim() - 2))

    def _kept(self, inputs: Tensor) -> Any:
        """The module's outputs; one that writes into its inputs gets a copy.

        The first calls are made with copies and tell whether one is needed: by the values, since what writes through
        `numpy` or `data` leaves no other trace; and by the count that torch keeps, which is all that is looked at
        later.
        """
        copied = self._writes is not False
        own = inputs.clone() if copied else inputs
        if torch.compiler.is_compiling() or type(own) not in (Tensor, nn.Parameter) or is_functorch_wrapped_tensor(own):
            return self.module(own)  # without values to compare
        version = None if own.is_inference() else own._version
        outputs = self.module(own)
        written = version is not None and own._version != version
        if written and not copied:
            raise InputError(
                f"{self.name} wrote into its inputs, which it had not done before. Let it work on a copy: "
                "`inputs = inputs.clone()` at the top of its forward."
            )
        if self._writes is None:
            self._watched += 1
            if written or not torch.allclose(own, inputs, rtol=0.0, atol=0.0, equal_nan=True):
                self._writes = True
            elif self._watched >= _WATCHED:
                self._writes = False
        return outputs

    def _outputs(self, outputs: Any) -> Tensor:
        if callable(self.output):
            outputs = self.output(outputs)
        elif isinstance(self.output, int):
            outputs = outputs[self.output]
        elif isinstance(self.output, str):
            outputs = outputs[self.output] if isinstance(outputs, Mapping) else getattr(outputs, self.output)
        fitted = self.task.fitted(outputs)
        if fitted is not None:
            return fitted
        came = (
            f"a tensor of shape {tuple(outputs.shape)}, {outputs.dtype}"
            if isinstance(outputs, Tensor)
            else f"{type(outputs).__name__}{_parts(outputs)}"
        )
        raise InputError(
            f"the model must return {self.task.returns}, in floating point; got {came}. {self.task.advice(outputs)}"
        )

    def _floating(self) -> Iterator[Tensor]:
        """Its parameters, then its buffers, as far as they are floating-point numbers."""
        own = itertools.chain(self.module.parameters(), self.module.buffers())
        return (tensor for tensor in own if tensor.is_floating_point())

    @property
    def shows(self) -> str:
        """What can be seen of it at most: "gradients", or a predictor's "scores" or "decisions"."""
        return self.module.shows if isinstance(self.module, Predictor) else "gradients"

    @property
    def device(self) -> torch.device:
        """Where the module's first parameter lies, or its first buffer; the CPU when it has neither."""
        own = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if own is None else own.device

    @property
    def dtype(self) -> torch.dtype:
        """What the module is fed with: the dtype of its first floating-point parameter; float32 when it has none.

        A copy in float64 of a module without any (8-bit weights, say) is fed with float64.
        """
        return next((tensor.dtype for tensor in self._floating()), self._fed)

    @property
    def precision(self) -> torch.dtype:
        """The coarsest floating dtype among parameters and buffers: no output is more exact than that."""
        return max(
            (tensor.dtype for tensor in self._floating()), key=lambda kind: torch.finfo(kind).eps, default=self.dtype
        )

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype that inputs are kept and searched in; the model itself casts them to its own.

        A change of 8/255 is coarse in half precision, so that narrower models are searched in float32 too: what is
        inside a set is measured on the float32 input that the model was given.
        """
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def sha256(self) -> str:
        """Digest of the loaded file, or of every weight and buffer of a module that was in memory."""
        if self._sha256 is None and isinstance(self.module, Predictor):
            return self.module.digest() or hashlib.sha256(self.name.encode()).hexdigest()
        if self._sha256 is None:
            digest = hashlib.sha256(type(self.module).__qualname__.encode())
            for name, value in sorted(self.state_dict(keep_vars=False).items()):
                digest.update(name.encode())
                add_to(digest, value)
            return digest.hexdigest()
        return self._sha256

    @property
    def identified(self) -> bool:
        """Whether its digest tells it from other models: not that of a function over arrays."""
        return self._sha256 is not None or not isinstance(self.module, Predictor) or self.module.digest() is not None

    def in_float64(self) -> Model | None:
        """A float64 copy, or None where none can be made; whether it also runs, `model.doubling` tries."""
        if isinstance(self.module, Predictor):
            return None
        try:
            with torch.no_grad():  # else a scripted module's weights become functions of the old ones
                copied = copy.deepcopy(self).double()
            copied._fed = torch.float64
            return copied
        except Exception:  # whatever a module's own __deepcopy__, __reduce__ or _apply may raise
            return None


def _parts(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f" with keys {sorted(map(str, outputs))}"
    if isinstance(outputs, tuple | list):
        return f" of {len(outputs)} parts"
    return " with .logits" if hasattr(outputs, "logits") else ""


def wrap(
    module: Any,
    box: Box | tuple[Limit, Limit] | None = None,
    mean: Any = None,
    std: Any = None,
    *,
    output: Callable[[Any], Tensor] | str | int | None = None,
    adaptation: Adaptation | None = None,
    name: str | None = None,
    sha256: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    shows: str | None = None,
    gradient: Callable[[Any, Any], Any] | None = None,
    task: Task | str | None = None,
    **params: Any,
) -> Model:
    """Put a model that is already in memory under test.

    Parameters
        module      a torch module; a `Model` comes back as it is, and nothing else may be said of it; a scikit-learn
                    classifier; or any callable over arrays, (B, *F) → (B, C) scores or (B,) class numbers.
        box         the valid inputs (low, high), before normalisation; (0, 1) unless given.
        mean, std   per channel, of inputs in the box; the model subtracts and divides, the caller never does.
        output      where the logits are when the module returns a tuple, a dict or an object.
        shows       "scores" or "decisions", what a callable gives or a classifier is to show (`model.predictor`).
        gradient    a callable's own, (inputs, weights) → gradient of the weighted scores.
        task        what the outputs mean, classification unless given: a name, its text form, or a Task, and
        params      the task's own numbers, as in task="regression", tolerance=50.

    Raises      InputError when `module` is none of these, mean and std are no finite numbers or do not match, or a
                `Model` comes with a box, a normalisation or anything else that is not its own.

    >>> model = wrap(nn.Linear(4, 3), box=(0.0, 1.0), mean=[0.5], std=[0.25])
    >>> model.box
    Box(low=0.0, high=1.0)
    """
    told = None if task is None and not params else parse_task(task, **params).judging()
    if isinstance(module, Model):
        check_agrees(
            module,
            task=told,
            box=box,
            mean=mean,
            std=std,
            output=output,
            adaptation=adaptation,
            name=name,
            sha256=sha256,
            input_shape=input_shape,
            classes=classes,
            shows=shows,
            gradient=gradient,
        )
        return module
    if not isinstance(module, nn.Module):
        name = name or getattr(module, "__name__", type(module).__name__)
        module = predictor_of(module, shows, classes, gradient, told or CLASSIFICATION)
    elif shows is not None or gradient is not None:
        raise InputError(
            "`shows` and `gradient` are said of a classifier or a callable over arrays; a torch module shows "
            "everything. Leave them out; what an adversary sees is the threat's: ;access=scores"
        )
    for said, value, kinds, words in (
        ("adaptation", adaptation, Adaptation, "an Adaptation"),
        ("name", name, str, "text"),
        ("sha256", sha256, str, "text"),
    ):
        if value is not None and not isinstance(value, kinds):
            raise InputError(f"`{said}` must be {words}, or None; got {value!r}")
    if not (output is None or callable(output) or isinstance(output, str | int)):
        raise InputError(f"`output` must be a position, a key, an attribute name or a function; got {output!r}")
    if any(tensor.is_meta for tensor in itertools.chain(module.parameters(), module.buffers())):
        raise InputError(
            f"`module` must hold its weights; {type(module).__name__} has some on the meta device, which holds no "
            "numbers. Load them first: module.to_empty(device='cpu'), then load_state_dict."
        )
    if any(tensor.is_inference() for tensor in itertools.chain(module.parameters(), module.buffers())):
        raise InputError(
            f"`module` must hold ordinary tensors; {type(module).__name__} has some that were made under "
            "torch.inference_mode(), which no gradient can pass. Make or load the module outside of it."
        )
    like = next((weight for weight in module.parameters() if weight.is_floating_point()), torch.zeros(()))
    centre, scale = _statistic("mean", mean, like), _statistic("std", std, like)
    if scale is not None and not bool((scale > 0).all()):
        raise InputError(f"`std` must be positive in every channel; got {std!r}, in {scale.dtype} {scale.tolist()}")
    if centre is not None and scale is not None and len({1, centre.numel(), scale.numel()}) > 2:
        raise InputError(f"`mean` and `std` must have one number per channel; got {centre.numel()} and {scale.numel()}")
    model = Model(
        module,
        box=Box(0.0, 1.0) if box is None else Box.of(box),
        mean=centre,
        std=scale,
        output=output,
        adaptation=adaptation,
        name=name or type(module).__name__,
        sha256=sha256,
        input_shape=input_shape,
        classes=classes,
        task=told or CLASSIFICATION,
    )
    model.box_from = "nobody" if box is None else model.box_from
    return model


def check_agrees(model: Model, **given: Any) -> None:
    """Refuse what is said of a model that has been wrapped already and has its own; None says nothing.

    Raises      InputError naming what was given and what the model has.
    """
    for name, wanted in given.items():
        if wanted is None:
            continue
        home = {"sha256": "_sha256"}.get(name, name)
        own: Any = getattr(model.module if name == "gradient" else model, home, None)
        if name == "box":
            same = Box.of(wanted) == own
        elif name in ("mean", "std"):
            told = None if own is None else _statistic(name, wanted, own)
            same = told is not None and torch.equal(told, own)
        else:
            same = own is wanted or own == (tuple(wanted) if name == "input_shape" else wanted)
        if not same:
            raise InputError(
                f"`{name}` of a model that is wrapped already cannot be changed: {model.name} has "
                f"{_shown(own)}; got {_shown(wanted)}. Leave it out, or wrap the module itself: "
                f"wrap(model.module, {name}=…)."
            )


def _shown(value: Any) -> str:
    return repr(value.tolist() if isinstance(value, Tensor) else value)


def _statistic(name: str, values: Any, like: Tensor) -> Tensor | None:
    if values is None:
        return None
    try:
        tensor = torch.as_tensor(values, dtype=like.dtype, device=like.device).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"`{name}` must be numbers, one per channel; got {values!r} ({error})") from error
    if not tensor.numel() or not bool(torch.isfinite(tensor).all()):
        raise InputError(f"`{name}` must be finite numbers, one per channel; got {values!r}")
    return tensor
