"""What a forward pass leaves behind: buffers that it writes, and whether a later call would see them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from trustbound.errors import UnsupportedError


def refuse_state(
    program: torch.export.ExportedProgram, values: dict[fx.Node, Any], output: fx.Node, depth: int
) -> None:
    """Refuse a forward that changes what its own next call computes; a counter that nothing reads may count.

    Raises      UnsupportedError naming the buffer.
    """
    signature = program.graph_signature
    buffers = {**signature.inputs_to_buffers, **signature.inputs_to_parameters}
    given: Any = output.args[0]
    kept = zip(given, signature.output_specs, strict=True)
    said = [(node, spec) for node, spec in kept if isinstance(node, fx.Node)]
    wanted = _ancestors([node for node, spec in said if spec.kind.name == "USER_OUTPUT"])
    read = {buffers[node.name] for node in wanted if node.name in buffers}
    stored = {**program.state_dict, **program.constants}
    for node, spec in said:
        if spec.kind.name not in ("BUFFER_MUTATION", "PARAMETER_MUTATION") or spec.target not in read:
            continue
        written, before = values[node], stored[spec.target]
        if not isinstance(written, Tensor) or not torch.equal(written, before):
            name = ".".join(str(spec.target).split(".")[depth:])
            raise UnsupportedError(
                f"no proof: the forward changes {name!r} and computes with it, so that the same inputs "
                "have other logits the next time. Keep state out of the forward pass in eval mode."
            )


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found
