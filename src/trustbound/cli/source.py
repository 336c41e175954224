"""The model and the data of a finished audit, read again as its command line named them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trustbound.errors import InputError, TrustboundError
from trustbound.model.registry import ZOO

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet
    from trustbound.model.wrapping import Model
    from trustbound.record.audit import AuditRecord

_HINT = "Give --source 'MODEL --data DATA …', what follows `trustbound audit`."


def named_by(record: AuditRecord, source: str | None) -> tuple[Model | None, LabelledSet, str]:
    """The model, the examples, and why there is no model where it cannot be had.

    Parameters
        source      what follows `trustbound audit`; by default what the record says that was given.

    A record may be anybody's: a model whose file would be executed is loaded only where `source` asks for it.

    Raises      InputError where the data cannot be read; the model's errors where `source` names it.
    """
    from trustbound.cli.options import read_data, read_model

    options = _given(record, source)
    seed = int(options.pop("seed"))
    if source is None and not _inert(options):
        return None, _data(record, options, seed), f"{options['model']} is executed to be loaded. {_HINT}"
    model, missing = None, ""
    try:
        model = read_model(dict(options))
    except (TrustboundError, OSError) as error:
        if source is not None:
            raise
        missing = f"{error} {_HINT}"
    kept = dict(options)
    try:
        return model, read_data(kept, seed, model) if model is not None else _data(record, options, seed), missing
    except (TrustboundError, OSError) as error:
        raise InputError(f"the data of the audit cannot be read: {error} {_HINT}") from error


def _data(record: AuditRecord, options: dict[str, Any], seed: int) -> LabelledSet:
    """The examples without the model: what it would say of them, its box and task, the record says."""
    from trustbound.cli.options import read_data

    if record.task != "classification":
        raise InputError(f"the labels of {record.task} are read with the model. {_HINT}")
    own = options["data_box"] or str(options["data"]).endswith(".csv")  # a table's box is its columns' own
    box = options["data_box"] if own else ",".join(map(repr, record.model.box))
    return read_data({**options, "data_box": box}, seed)


def _given(record: AuditRecord, source: str | None) -> dict[str, Any]:
    """The options of the audit's command."""
    from trustbound.cli.commands.audit import audit_command

    text = record.command if source is None else source
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no command line: {error}. {_HINT}") from error
    if source is None:
        if len(words) < 2 or Path(words[0]).stem != "trustbound" or words[1] != "audit":
            raise InputError(
                f"the audit was not made by `trustbound audit` but by {text!r}, which names no data. {_HINT}"
            )
        words = words[2:]
    elif "--threat" not in words:
        words = [*words, "--threat", "linf:0"]  # no matter which: the record says
    try:
        context = audit_command.make_context("trustbound audit", words, resilient_parsing=False)
    except click.UsageError as error:
        raise InputError(f"{text!r} cannot be read as an audit's command: {error.format_message()} {_HINT}") from error
    return dict(context.params)


def _inert(options: dict[str, Any]) -> bool:
    """Whether loading the model reads weights alone."""
    head, _, _ = str(options["model"]).partition(":")
    return not options["trust_pickle"] and (head in ZOO.names or head.endswith((".safetensors", ".onnx")))
