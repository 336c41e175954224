"""What a translated value is: the index of a node when it depends on the input, else a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from trustbound.certificates.graph.translation import Translator

Arguments: TypeAlias = dict[str, Any]


class NodeIndex(int):
    """Index of a step in the list: a value that depends on the input, as against a constant."""


@dataclass(frozen=True)
class MovedBatch:
    """A value whose batch axis is not its first, or is laid together with others.

    `index` is a step with the batch axis first and the others in the value's order; of each axis of the value `groups`
    says which sizes it is made of, 0 standing for the batch.
    """

    index: NodeIndex
    groups: tuple[tuple[int, ...], ...]


class Count(int):
    """A number computed from how many inputs come together; shapes may hold it, numbers may not."""


def holds(value: Any, kind: type) -> bool:
    """Say whether a nested value holds one of a kind."""
    if isinstance(value, tuple | list):
        return any(holds(item, kind) for item in value)
    if isinstance(value, dict):
        return any(holds(item, kind) for item in value.values())
    return isinstance(value, kind)


def depends(value: Any) -> bool:
    """Say whether a nested value holds the index of a node."""
    return holds(value, NodeIndex) or holds(value, MovedBatch)


def constant_only(translator: Translator, given: Arguments, *names: str) -> None:
    """Refuse when an argument that must be constant depends on the input."""
    for name in names:
        if depends(given.get(name)):
            raise translator.refusal(f"`{name}` depends on the input")


def pair(value: Any, count: int) -> tuple[int, ...]:
    """Return one number per spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(int(number) for number in (numbers * count if len(numbers) == 1 else numbers))
