"""A newcomer sees the architecture in the folder tree: rooms stay small; leaf folders of siblings may hold more."""

from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "trustbound"
ROOMS = sorted(
    folder for folder in SOURCE.rglob("*") if folder.is_dir() and folder.name != "__pycache__" and any(folder.iterdir())
)
VAGUE = {"utils", "common", "helpers", "misc", "parts", "steps", "formats"}


def entries(folder: Path) -> list[Path]:
    return [
        entry
        for entry in folder.iterdir()
        if entry.name not in ("__init__.py", "__pycache__", "py.typed", "registry.py")
    ]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(SOURCE)))
def test_a_room_holds_ten_entries_and_a_leaf_folder_twenty_five(room):
    leaf = not any(entry.is_dir() for entry in entries(room))
    assert len(entries(room)) <= (25 if leaf and room.parent != SOURCE else 10)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(SOURCE)))
def test_every_folder_is_a_package_that_says_what_it_is_for(room):
    if any(entry.suffix == ".py" for entry in room.iterdir()):
        first = (room / "__init__.py").read_text()
        assert first.startswith('"""'), f"{room} does not say what it is for"


def test_no_file_has_a_name_that_says_nothing():
    assert not [path for path in SOURCE.rglob("*") if path.stem in VAGUE]
