"""The colours of the report: one for each meaning, in a light and a dark form.

Figures are drawn with placeholder colours; the canvas writes each as a CSS variable, so that one drawing is
right in both. Meanings never rest on colour alone: certified is solid, unknown striped, broken crossed and
misclassified dotted, and all carry their names.

The hues follow Okabe and Ito's colour-blind safe set (blue, vermilion, reddish purple).
"""

from __future__ import annotations

#: role -> (light, dark)
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fdfcf9", "#15181c"),
    "card": ("#f5f2eb", "#1e2228"),
    "ink": ("#22262b", "#e8e6e1"),
    "muted": ("#5a6068", "#a9afb8"),
    "rule": ("#d9d4c8", "#3a4049"),
    "accent": ("#7a4b12", "#e0b679"),
    "certified": ("#1d639b", "#5fa9de"),
    "certified-stripe": ("#1d639b", "#5fa9de"),
    "on-certified": ("#ffffff", "#0c1116"),
    "unknown": ("#ece8de", "#343a43"),
    "unknown-stripe": ("#bdb6a5", "#565e6a"),
    "on-unknown": ("#22262b", "#f0eeea"),
    "broken": ("#b9480a", "#ef8a4f"),
    "broken-stripe": ("#cb6429", "#d9742f"),
    "on-broken": ("#ffffff", "#160b04"),
    "misclassified": ("#6d3f7a", "#c193cf"),
    "misclassified-stripe": ("#875c93", "#a878b7"),
    "on-misclassified": ("#ffffff", "#150b18"),
    "pass": ("#2a6a3c", "#7fc492"),
    "warn": ("#7d5600", "#e6b450"),
    "fail": ("#a52015", "#ff8d80"),
}

#: The four verdicts in the order in which they are stacked, with their hatching.
STACK: tuple[tuple[str, str], ...] = (
    ("certified", ""),
    ("unknown", "/"),
    ("broken", "x"),
    ("misclassified", "."),
)

#: One 8 × 8 tile of each hatching, as strokes: stripes, crosses, dots.
TILES: dict[str, str] = {
    "unknown": "M -2 2 L 2 -2 M 0 8 L 8 0 M 6 10 L 10 6",
    "broken": "M 0 0 L 8 8 M 0 8 L 8 0",
    "misclassified": "M 2 2 h 0.01 M 6 6 h 0.01",
}

_PLACEHOLDER = {role: f"#0{index:02x}a5c" for index, role in enumerate(COLOURS)}
_ROLE = {placeholder: role for role, placeholder in _PLACEHOLDER.items()}


def colour(role: str) -> str:
    """The placeholder under which a figure draws a role.

    >>> role_of(colour("broken"))
    'broken'
    """
    return _PLACEHOLDER[role]


def role_of(placeholder: str) -> str | None:
    """The role behind a placeholder, None for any other colour."""
    return _ROLE.get(placeholder.lower())


def variables(theme: str) -> str:
    """The CSS declarations of all roles in the "light" or "dark" form.

    >>> variables("light").split(";")[0]
    '--paper:#fdfcf9'
    """
    column = ("light", "dark").index(theme)
    return ";".join(f"--{role}:{pair[column]}" for role, pair in COLOURS.items())
