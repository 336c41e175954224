"""Options that several commands share: which model, which data, which threat."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trustbound.data.registry import DATA
from trustbound.errors import InputError
from trustbound.tasks.registry import TASKS

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.model.wrapping import Model
    from trustbound.threat import Threat

#: A threat that says itself what is seen.
_ACCESS = re.compile(r";\s*access=")

F = TypeVar("F", bound=Callable[..., Any])


def _stack(options: list[Callable[[F], F]], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def model_options(function: F) -> F:
    """MODEL and how to read it."""
    return _stack(
        [
            click.argument("model"),
            click.option("--weights", type=click.Path(), help="Weights: .safetensors, .pt or .pth."),
            click.option("--arguments", help="JSON arguments for the architecture or function."),
            click.option(
                "--box",
                "model_box",
                help="Valid inputs LOW,HIGH before normalisation, or a JSON file with limits per feature "
                "(default: noted, or 0,1).",
            ),
            click.option("--mean", help="Per-channel mean that the model subtracts, comma-separated."),
            click.option("--std", help="Per-channel std that the model divides by, comma-separated."),
            click.option("--output", help="Where the logits are: a position, key or attribute."),
            click.option(
                "--access",
                type=click.Choice(["decisions", "scores", "gradients"]),
                help="What is seen of the model, also by the adversary where a threat does not say (gradients).",
            ),
            click.option("--task", help="What outputs mean, one of: " + ", ".join(row.example for row in TASKS) + "."),
            click.option("--classes", type=click.IntRange(min=2), help="Of a function that shows decisions."),
            click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …"),
            click.option("--trust-pickle", is_flag=True, help="Unpickle weights: runs whatever code they hold."),
        ],
        function,
    )


def defence_options(function: F) -> F:
    """What an attacker who knows the defence does about it, beside what the model declares itself."""
    return _stack(
        [
            click.option(
                "--draws",
                type=click.IntRange(min=1),
                help="A model that answers at random: answers that are averaged at each look (EOT).",
            ),
            click.option(
                "--stand-in",
                "stand_ins",
                multiple=True,
                metavar="MODULE=NAME",
                help="A module without a useful gradient: what stands in for it in the backward pass (BPDA), identity, "
                "relu, sigmoid, softplus or tanh; may be repeated.",
            ),
        ],
        function,
    )


def data_options(function: F) -> F:
    """--data and how to read it."""
    return _stack(
        [
            click.option("--data", required=True, help=", ".join(DATA.names) + ", or a path."),
            click.option("--split", help="Which part of the data, where it has parts (default: test)."),
            click.option("--limit", type=click.IntRange(min=1), help="At most so many examples, drawn stratified."),
            click.option("--data-dir", type=click.Path(), help="Where named data sets are looked for first."),
            click.option("--resize", help="Pictures: shorter side N, or HxW."),
            click.option("--crop", help="Pictures: central crop N, or HxW."),
            click.option("--interpolation", help="Pictures: how to resize (default: bilinear)."),
            click.option("--class-index", help="Pictures: file that maps class folders to class numbers."),
            click.option("--label-column", help="CSV: the column that holds the label."),
            click.option(
                "--data-box",
                help="Valid inputs LOW,HIGH of the data, or a JSON file (default: the model's box; for CSV the "
                "columns' own).",
            ),
        ],
        function,
    )


def threat_option(function: F) -> F:
    """--threat, once or more, and what is said of single columns."""
    return _stack(
        [
            click.option(
                "--threat",
                "threats",
                multiple=True,
                required=True,
                help="linf:8/255, l2:0.5, l1:12, l0:20, l2:inf, rotation:30,translation:3 …; of tables also linf:5% of "
                "each column's range, linf:0.1*std, linf:columns; may be repeated.",
            ),
            click.option(
                "--columns",
                type=click.Path(),
                help="Tables: a TOML or JSON file with radius, immutable, integer or one_hot of single columns.",
            ),
        ],
        function,
    )


def read_threats(texts: Sequence[str], options: dict[str, Any]) -> list[Threat]:
    """The threats, each with the access that the options give where it has none of its own."""
    from trustbound.threat import Threat

    access = options["access"]
    return [
        Threat.parse(text if access is None or _ACCESS.search(text) else f"{text};access={access}") for text in texts
    ]


def resolve_threats(
    threats: Sequence[Threat], options: dict[str, Any], data: LabelledSet, known: LabelledSet | None = None
) -> list[Threat]:
    """The threats in units that the data's columns give, those of training data where there are some."""
    columns = options.pop("columns")
    if known is not None and known.columns is not None:
        data = data.measured_by(known.columns)
    return [threat.resolved(data, columns) for threat in threats]


def read_model(options: dict[str, Any]) -> Model:
    """The model that the options name; removes them from `options`."""
    from trustbound.model import load_model

    take = functools.partial(options.pop)
    box, access = take("model_box"), take("access")
    draws, stand_ins = options.pop("draws", None), options.pop("stand_ins", ())
    model = load_model(
        take("model"),
        weights=take("weights"),
        arguments=take("arguments"),
        box=None if box is None else pair(box, "--box"),
        mean=numbers(take("mean"), "--mean"),
        std=numbers(take("std"), "--std"),
        output=_place(take("output")),
        device=take("device"),
        trust_pickle=take("trust_pickle"),
        shows=None if access == "gradients" else access,
        classes=take("classes"),
        task=take("task"),
    )
    if draws is not None or stand_ins:
        from trustbound.model.defences.stand_ins import declare

        declare(model, draws=draws, stand_ins=stand_ins)
    return model


def read_data(options: dict[str, Any], seed: int, model: Model | None = None) -> LabelledSet:
    """The data that the options name; removes them from `options`."""
    from trustbound.data import load_data

    take = functools.partial(options.pop)
    box = take("data_box")
    chosen: Any = None if box is None else pair(box, "--data-box")
    data = take("data")
    table = str(data).lower().endswith(".csv")
    if chosen is None and model is not None and not table:
        chosen = model.box
    found = load_data(
        data,
        split=take("split"),
        limit=take("limit"),
        seed=seed,
        data_dir=take("data_dir"),
        resize=_extent(take("resize"), "--resize"),
        crop=_extent(take("crop"), "--crop"),
        interpolation=take("interpolation"),
        class_index=take("class_index"),
        label_column=take("label_column"),
        box=chosen,
        task=None if model is None else model.task,
    )
    if table and model is not None:
        model.fit_box(found.box)
    return found


def read_part(options: dict[str, Any], split: str, seed: int, model: Model | None = None) -> tuple[LabelledSet, bool]:
    """A part of the data, and True; all of it, and False, where it has no parts."""
    from trustbound.data.readers.splits import NoSplitsError

    try:
        return read_data({**options, "split": split}, seed, model), True
    except NoSplitsError:
        return read_data({**options, "split": None}, seed, model), False


def numbers(text: str | None, option: str) -> list[float] | None:
    """Comma-separated numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} takes numbers separated by commas; got {text!r}") from error


def pair(text: str, option: str) -> tuple[Any, Any]:
    """LOW,HIGH as numbers, or from a JSON file `{"low": …, "high": …}` with a number or one number a feature."""
    if text.endswith(".json"):
        return _limits(Path(text), option)
    values = numbers(text, option)
    if values is None or len(values) != 2:
        raise InputError(f"{option} takes LOW,HIGH; got {text!r}")
    return values[0], values[1]


def _limits(path: Path, option: str) -> tuple[Any, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return held["low"], held["high"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{option} takes LOW,HIGH or a JSON file {{"low": …, "high": …}} with a number or one number a feature; '
            f"{path} cannot be read so ({type(error).__name__}: {error})"
        ) from error


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object, empty where the option was not given."""
    from trustbound.errors import InputError

    try:
        given = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise InputError(f"{option} takes a JSON object; got {text!r} ({error})") from error
    if not isinstance(given, dict):
        raise InputError(f"{option} takes a JSON object; got {text!r}")
    return given


def as_json(value: Any) -> str:
    """One JSON object, readable by machines and people."""
    return json.dumps(value, indent=2, allow_nan=False, sort_keys=False)


def _place(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def _extent(text: str | None, option: str) -> int | tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"{option} takes N or HxW in pixels; got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))
