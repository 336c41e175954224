"""One door to every kind of model: a name of the zoo, a function, or a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.errors import InputError
from trustbound.model.files import factory, programs
from trustbound.model.files.onnx_network import OnnxNetwork
from trustbound.model.files.origin import Origin, sha256_of
from trustbound.model.files.recognising import recognise, refusal
from trustbound.model.files.registry import FILES
from trustbound.model.files.save import noted_box, read_notes
from trustbound.model.files.weights import check_weights, fit_weights, read_checkpoint, read_weights
from trustbound.model.predictor import Predictor
from trustbound.model.registry import ZOO
from trustbound.model.wrapping import Model, check_agrees, wrap
from trustbound.model.zoo.build import build
from trustbound.record.box import Box, Limit
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task

_FORMS = (
    "zoo-name:weights.safetensors, weights.safetensors (written by save_model), path/file.py:function, "
    "package.module:function, program.pt2, network.onnx, a TorchScript file, model.skops, or a LightGBM or XGBoost file"
)


def load_model(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    arguments: Mapping[str, Any] | str | None = None,
    box: Box | tuple[Limit, Limit] | None = None,
    mean: Any = None,
    std: Any = None,
    output: Callable[[Any], Tensor] | str | int | None = None,
    device: str | torch.device = "cpu",
    trust_pickle: bool = False,
    shows: str | None = None,
    classes: int | None = None,
    task: Task | str | None = None,
) -> Model:
    """Load a model and put it under test, in eval mode.

    Parameters
        spec          `zoo-name:weights`, a weights file that `save_model` wrote, `path/file.py:function` (the
                      file is *executed*), `package.module:function`, a torch.export program, TorchScript or ONNX, a
                      scikit-learn model (.skops; a pickle or joblib file with trust), a LightGBM or XGBoost file.
                      What a file holds is told from its content; `trustbound list files` shows all kinds.
        weights       .safetensors, or .pt / .pth read with weights_only.
        arguments     what the architecture or function is called with: a mapping or JSON text.
        box, mean, std  the valid inputs, and the normalisation that the model does itself. Unless given, those
                      noted in the weights file hold, else (0, 1) and none. A function that returns a `Model` has
                      said them already; others are refused.
        output        where the logits are, when the model returns a tuple, a dict or an object.
        trust_pickle  unpickle what cannot be read otherwise, which runs the code in it.
        shows         of a function that takes arrays, one argument, and is the model itself: "scores" (B, C), or
                      "decisions" (B,), of `classes` classes; of a fitted classifier, also in a file, which of them.
        task          what the outputs mean, classification unless given, e.g. "regression:tolerance=50".

    `model.origin` keeps every file with its SHA-256, and what loading executed.

    Randomness  the global generator is left as it was.
    Raises      InputError: nothing of that name, missing or damaged files, names or shapes that do not match,
                pickled code without trust, a device that is not there.

    >>> import tempfile
    >>> from trustbound.model import build, save_model
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = save_model(build("fc", widths=[8], input_shape=[4], classes=3), f"{folder.name}/a.safetensors")
    >>> load_model(f"fc:{path}")(torch.rand(2, 4)).shape
    torch.Size([2, 3])
    """
    place = _device(device)
    given = _arguments(arguments)
    told = None if task is None else parse_task(task).judging()
    text = str(spec)
    zoo, path, function = _parse(text, weights)
    files: list[tuple[str, str]] = []
    executed: list[str] = []
    notes: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):  # fresh weights must not disturb the caller's random numbers
        if zoo is not None:
            module, notes, given = _from_zoo(zoo, path, given, trust_pickle)
        elif function is not None:
            module = _from_function(text, path, function, given, files, shows, classes, told or CLASSIFICATION)
            executed.append(text)
        else:
            assert path is not None
            module = _from_file(path, given, weights, trust_pickle, shows, classes, told or CLASSIFICATION)
            if not isinstance(module, Predictor | OnnxNetwork):  # whose operators are ours: nothing of theirs is run
                executed.append(f"the program in {path}")
    source = path if zoo is not None or function is None else None
    if source is not None:
        files.append((str(source), sha256_of(source)))
        files += [(str(file), sha256_of(file)) for file in getattr(module, "beside", ())]
    if weights is not None and zoo is None:
        extra = Path(weights).expanduser()
        files.append((str(extra), sha256_of(extra)))
        bare = module.module if isinstance(module, Model) else module
        fit_weights(bare, read_weights(extra, trust_pickle=trust_pickle), extra)
        notes = read_notes(extra) if extra.suffix.lower() == ".safetensors" else {}
    if trust_pickle and any(not name.endswith((".safetensors", ".py")) for name, _ in files):
        executed.append("the pickle, which was trusted")
    origin = Origin(spec=text, arguments=given, files=tuple(files), executed=tuple(executed))
    box = box if box is not None else noted_box(notes)
    mean, std = (notes.get(name) if said is None else said for name, said in (("mean", mean), ("std", std)))
    if isinstance(module, Model):  # the function wrapped it already
        check_agrees(module, box=box, mean=mean, std=std, output=output, task=told)
        model = module.to(place)
        model._sha256 = model._sha256 if weights is None else origin.sha256
    else:
        shape, outputs = (given.get(name) if zoo is not None else None for name in ("input_shape", "classes"))
        if isinstance(module, OnnxNetwork):
            shape, outputs = module.features, module.classes
        model = wrap(
            module.to(place),
            box=box,
            mean=mean,
            std=std,
            output=output,
            name=zoo or text,
            sha256=_digest(module, text, origin) if weights is None and function is not None else origin.sha256,
            input_shape=None if shape is None else tuple(shape),
            classes=outputs,
            task=told,
        )
    model.origin = origin
    return model.eval()


def _digest(module: nn.Module, spec: str, origin: Origin) -> str | None:
    """Of a function over arrays in a file: the file's, with its name; None leaves it to what the module holds."""
    if not isinstance(module, Predictor) or module.digest() is not None or not origin.files:
        return None
    return hashlib.sha256(f"{origin.sha256} {spec.rpartition(':')[2]}".encode()).hexdigest()


def _parse(spec: str, weights: str | Path | None) -> tuple[str | None, Path | None, str | None]:
    """(zoo name, file, function): which of the forms a spec has."""
    head, _, tail = spec.partition(":")
    if head in ZOO.names:
        if bool(tail) == (weights is not None):
            raise InputError(
                f"the architecture {head!r} needs its weights once, as {head}:weights.safetensors or with "
                f"weights=; got {spec!r} and weights={weights!r}. Untrained networks come from "
                "trustbound.model.build."
            )
        return head, Path(tail or str(weights)).expanduser(), None
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() != ".py"):
        kind = recognise(path)
        if not FILES.find(kind).loads:
            raise refusal(path, kind)
        if kind == "safetensors":
            if weights is not None:
                raise InputError(
                    f"weights come from one file; got {spec} and weights={str(weights)!r}. Leave one of them out."
                )
            if (zoo := read_notes(path).get("architecture")) is None:
                raise InputError(
                    f"{spec} holds weights without the name of their architecture. Pass zoo-name:{spec}, or "
                    f"path/file.py:function with weights= (--weights {spec})."
                )
            return str(zoo), path, None
        return None, path, None
    before, colon, function = spec.rpartition(":")
    if colon and before.endswith(".py"):
        if not Path(before).expanduser().is_file():
            raise InputError(f"the file {before!r} does not exist")
        return None, Path(before).expanduser(), function
    if colon and all(part.isidentifier() for part in f"{before}.{function}".split(".")):
        return None, None, function
    hint = ZOO.suggestion(head) or f" The zoo has {', '.join(ZOO.names)}."
    raise InputError(f"a model is {_FORMS}; got {spec!r}, which is none of these or does not exist.{hint}")


def _from_zoo(
    zoo: str, path: Path | None, given: dict[str, Any], trust_pickle: bool
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    assert path is not None
    notes = read_notes(path) if path.suffix.lower() == ".safetensors" else {}
    if notes.get("architecture") not in (None, zoo):
        raise InputError(f"{path} holds weights of {notes['architecture']!r}; got the architecture {zoo!r}")
    tensors = read_weights(path, trust_pickle=trust_pickle)
    wanted = {**(notes.get("arguments") or {}), **given}
    with torch.device("meta"):  # shapes alone: nothing larger than the file is made room for
        check_weights(build(zoo, **wanted), tensors, path)
    module = build(zoo, **wanted)
    fit_weights(module, tensors, path)
    return module, notes, dict(module.arguments)  # type: ignore[arg-type]


def _from_function(
    spec: str,
    path: Path | None,
    function: str,
    given: dict[str, Any],
    files: list[tuple[str, str]],
    shows: str | None,
    classes: int | None,
    task: Task,
) -> nn.Module:
    if path is None:
        return factory.from_package(spec.rpartition(":")[0], function, given, shows, classes, task)
    files.append((str(path), sha256_of(path)))
    return factory.from_file(path, function, given, shows, classes, task)


def _from_file(
    path: Path,
    given: dict[str, Any],
    weights: str | Path | None,
    trust_pickle: bool,
    shows: str | None,
    classes: int | None,
    task: Task,
) -> nn.Module:
    """A program, a whole module or an estimator, by what the file holds."""
    kind = recognise(path)
    read = FILES.load(kind)
    if kind != "torch-checkpoint" and (given or weights is not None):
        raise InputError(f"{path} is {FILES.find(kind).line}: it takes neither arguments nor weights")
    if kind == "torchscript":
        return programs.load_torchscript(path)
    if kind == "torch-export":
        return programs.load_export(path, trust_pickle=trust_pickle)
    if kind != "torch-checkpoint":
        module: nn.Module = read(path, trust_pickle=trust_pickle, shows=shows, classes=classes, task=task)
        return module
    held = read_checkpoint(path, trust_pickle=trust_pickle)
    if isinstance(held, nn.Module):
        if given:
            raise InputError(f"{path} holds a whole module, which takes no arguments; got {given}")
        return held
    lightning = isinstance(held, Mapping) and "pytorch-lightning_version" in held
    raise InputError(
        f"{path} holds weights alone{', of Lightning' if lightning else ''}. Say what they belong to: "
        f"zoo-name:{path}, or path/file.py:function with weights= (--weights {path})."
    )


def _arguments(arguments: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise InputError(f"`arguments` must be a JSON object; got {arguments!r} ({error})") from error
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise InputError(f'`arguments` must be a mapping like {{"classes": 10}}; got {arguments!r}')
    return dict(arguments)


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"the device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}. "
            f"Use cpu{', cuda' if torch.cuda.is_available() else ''}."
        ) from error
    return place
