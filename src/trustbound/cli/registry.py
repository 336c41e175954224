"""Every command by name, without importing any."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True)
class CommandRow:
    """One command: its name, "module:attribute", and one line."""

    name: str
    target: str
    line: str


_ROOM = "trustbound.cli.commands."

COMMANDS = Registry(
    "a command",
    CommandRow("audit", _ROOM + "audit:audit_command", "Bracket a model's robust accuracy and write the report."),
    CommandRow("train", _ROOM + "train:train_command", "Train a model of the zoo, plainly or to be robust."),
    CommandRow("attack", _ROOM + "attack:attack_command", "Run one attack."),
    CommandRow("certify", _ROOM + "certify:certify_command", "Run one certifier."),
    CommandRow("verify", _ROOM + "verify:verify_command", "Decide a VNN-LIB property of a network."),
    CommandRow(
        "lipschitz", _ROOM + "lipschitz:lipschitz_command", "Bound how fast a network can change, layer by layer."
    ),
    CommandRow("report", _ROOM + "report:report_command", "Write the page of a finished audit again."),
    CommandRow("compare", _ROOM + "compare:compare_command", "Put finished audits side by side."),
    CommandRow(
        "leaderboard", _ROOM + "leaderboard:leaderboard_command", "Rank many finished audits, a table for each threat."
    ),
    CommandRow("gate", _ROOM + "gate:gate_command", "Fail when a finished audit misses a threshold."),
    CommandRow("export", _ROOM + "export:export_command", "Write a finished audit as tables, arrays, pictures, words."),
    CommandRow(
        "list",
        _ROOM + "list:list_command",
        "List attacks, certifiers, checks, data, engines, files, models …",
    ),
    CommandRow("doctor", _ROOM + "doctor:doctor_command", "Show versions, devices, data, and what is missing."),
)
