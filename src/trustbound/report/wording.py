"""The words of the report: what was audited, what an input is called, what a threat allows and what withstands it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import PurePath

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.formatting import amount, share
from trustbound.tasks.registry import TASKS, TaskRow


@dataclass(frozen=True, kw_only=True)
class Noun:
    """What one input is called, and one of its coordinates."""

    one: str
    many: str
    part: str

    def of(self, n: int) -> str:
        """The noun after a count.

        >>> Noun(one="image", many="images", part="pixel").of(1)
        'image'
        """
        return self.one if n == 1 else self.many


def noun(input_shape: tuple[int, ...]) -> Noun:
    """Images where the shape is that of one, inputs otherwise.

    A pixel of a colour picture holds three values, each of which a threat counts.

    >>> noun((1, 28, 28)).part, noun((3, 32, 32)).part, noun((30,)).part, noun((2, 9, 9)).one
    ('pixel', 'pixel value', 'feature', 'input')
    """
    if is_picture(input_shape):
        colour = len(input_shape) == 3 and input_shape[0] > 1
        return Noun(one="image", many="images", part="pixel value" if colour else "pixel")
    return Noun(one="input", many="inputs", part="feature")


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape can be shown: (H, W), (1, H, W) or (3, H, W).

    >>> is_picture((8, 8)), is_picture((3, 32, 32)), is_picture((784,))
    (True, True, False)
    """
    return (len(shape) == 2 and min(shape) > 1) or (len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1)


def change_words(bracket: Bracket, what: Noun) -> str:
    """What the threat allows, as it follows "under": the record's own words, with what an input value is called here.

    >>> bracket = Bracket(threat="linf:8/255", lower=0.0, upper=1.0, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=1, certified=0, broken=0, misclassified=0, unknown=1,
    ...     change="any change of each input value by up to 8/255 (0.03137)")
    >>> change_words(bracket, noun((3, 32, 32)))
    'any change of each pixel value by up to 8/255 (0.03137)'
    """
    said = bracket.change.strip().rstrip(".").replace("input value", what.part)
    if said.startswith("any "):
        return said
    return f"any change that {bracket.threat} allows" + (f" ({said})" if said else "")


def withstanding(bracket: Bracket, what: Noun) -> str:
    """A bracket as one clause, without its stop: what may change, and how many withstand it.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.5, upper=0.75, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=4, certified=2, broken=1, misclassified=0, unknown=1,
    ...     change="any change of each input value by up to 0.1")
    >>> print(withstanding(bracket, noun((8, 8))).replace(chr(160), " "))
    Each pixel changed by up to 0.1: between 50.0 % and 75.0 % of 4 images withstand it
    """
    changed = re.sub(r"^any change of each (.+?) by up to ", r"each \1 changed by up to ", change_words(bracket, what))
    if bracket.columns:  # how far each may go is told elsewhere
        fixed = [column.name for column in bracket.columns if column.kind == "immutable"]
        changed = changed.partition(" (")[0].partition(";")[0]
        if fixed:
            told = " and ".join(fixed) if len(fixed) < 3 else f"{len(fixed)} of them"
            changed = f"{changed} ({told} kept as {'it is' if len(fixed) == 1 else 'they are'})"
    count = amount(bracket.n, what.one, what.many)
    if bracket.lower == bracket.upper:
        said = f"exactly {share(bracket.lower)} of {count} withstand it"
    elif bracket.certified == 0:
        said = f"at most {share(bracket.upper)} of {count} withstand it, and none is proven to"
    else:
        said = f"between {share(bracket.lower)} and {share(bracket.upper)} of {count} withstand it"
    return f"{changed[:1].upper()}{changed[1:]}: {said}"


def subject(record: AuditRecord) -> str:
    """What was audited, as its owner calls it: the file of weights where the command names one, else the model.

    A command `trustbound audit cnn-small:runs/plain.safetensors …` is about plain.safetensors.
    """
    name = record.model.name
    try:
        words = shlex.split(record.command)
    except ValueError:
        words = []
    for place, word in enumerate(words):
        if word.startswith(f"{name}:"):
            return PurePath(word.removeprefix(f"{name}:")).name or name
        if word == "--weights" and place + 1 < len(words):
            return PurePath(words[place + 1]).name or name
    file, colon, function = name.rpartition(":")
    return f"{PurePath(file).name}:{function}" if colon and file.endswith(".py") else PurePath(name).name or name


def stopped(text: str) -> str:
    """A text as a sentence of its own: exactly one stop at its end, whatever it ended in.

    >>> stopped("0 of 3 break,"), stopped("Is it?"), stopped("two runs.;"), stopped("")
    ('0 of 3 break.', 'Is it?', 'two runs.', '')
    """
    said = text.strip().rstrip(",;: ")
    return said if not said or said[-1] in ".!?…" else f"{said}."


def as_sentence(text: str) -> str:
    """A text that follows a full stop: its first word has a capital, unless it is code.

    >>> as_sentence("use 366 examples"), as_sentence("model.eval() first"), as_sentence("")
    ('Use 366 examples.', 'model.eval() first.', '')
    """
    said = stopped(text)
    plain = said.split(" ", 1)[0].rstrip(",.;:").isalpha()
    return said[:1].upper() + said[1:] if plain else said


def task_of(record: AuditRecord) -> TaskRow:
    """The row of the record's task; of a task that has none, what can be said of every task."""
    name = record.task.partition(":")[0]
    known = next((row for row in TASKS if row.name == name), None)
    return known or TaskRow(
        name=name, target="", line="", example=name, returns="", labels="", right="answered rightly", smooth=False
    )


def kept(bracket: Bracket, right: str) -> str:
    """What an example does that counts for the bounds: the opposite of the adversary's goal.

    Parameters
        right   what the task says of an example that counts as right.

    Out of reach of a goal does not mean right under every change: another wrong class may be within reach.
    """
    if is_misclassify(bracket):
        return right
    return f"{right} when nothing is changed, and out of reach of the adversary's goal"


def is_misclassify(bracket: Bracket) -> bool:
    """Whether the goal is the usual one: any wrong class."""
    return bracket.goal.strip().lower().startswith("misclassify")


def unmeasured(record: AuditRecord) -> str:
    """Why a record says nothing of confidence."""
    task = task_of(record)
    if task.calibrated:
        return "it was not measured"
    return f"it is not defined for the task {task.name}, whose outputs are no probabilities of one answer"


def precision_words(bracket: Bracket) -> tuple[str, ...]:
    """What the precision of floating point decides in a bracket: ties, lost proofs, answers that are no numbers.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.0, upper=1.0, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=2, certified=0, broken=0, misclassified=0, unknown=2, rounded=1)
    >>> precision_words(bracket)
    ('linf:0.1: 1 example lost to rounding: its proof holds in exact arithmetic, not in the precision of the model.',)
    """
    said = []
    if bracket.ties:
        one = bracket.ties == 1
        said.append(
            f"{amount(bracket.ties, 'tie')}: {'its margin' if one else 'their margins'} under attack "
            f"{'lies' if one else 'lie'} within rounding error."
        )
    if bracket.rounded:
        proofs = "its proof holds" if bracket.rounded == 1 else "their proofs hold"
        said.append(
            f"{amount(bracket.rounded, 'example')} lost to rounding: {proofs} in exact arithmetic, not in the "
            "precision of the model."
        )
    if bracket.unanswered:
        said.append(
            f"{amount(bracket.unanswered, 'example')} broken by inputs to which the model answers NaN or infinity."
        )
    return tuple(f"{bracket.threat}: {each}" for each in said)


def class_name(record: AuditRecord, index: int | None) -> str:
    """A class by its name where it has one, else by its number."""
    if index is None:
        return "?"
    names = record.data.class_names
    return names[index] if 0 <= index < len(names) and names[index] else str(index)


def legible(text: str, limit: int = 0) -> str:
    """Text without control characters or lone surrogates, shortened in the middle to `limit` characters.

    >>> legible("a\\x00b\\ud800"), legible("abcdefghij", 5)
    ('a�b�', 'ab…ij')
    """
    shown = "".join(
        " " if c in "\t\r\n" else "�" if (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or _unpaired(c)) else c for c in text
    )
    if limit and len(shown) > limit:
        head = limit // 2
        return f"{shown[:head]}…{shown[len(shown) - (limit - head - 1) :]}"
    return shown


def _unpaired(character: str) -> bool:
    """Whether a character is half a surrogate pair or a noncharacter, which no XML may hold."""
    return 0xD800 <= ord(character) <= 0xDFFF or ord(character) in (0xFFFE, 0xFFFF)
