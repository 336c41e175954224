"""What a folder or an archive of pictures holds, by name only: nothing is decoded or extracted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trustbound.data.readers.splits import DEFAULT, refuse_split
from trustbound.errors import InputError
from trustbound.record.disk.unpacking import DAMAGED, check_zip, members

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
_SPLITS = ("train", "test", "val", "valid", "validation")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The pictures of one split: their paths inside the source and the folder name of each one's class.

    names       paths inside the source, sorted.
    folders     the class folder of each picture, in the order of `names`.
    classes     every class folder of the source, all splits together, sorted: a class that one split lacks
                must not renumber the others.
    split       the split folder that was found, None where the source has no split folders.
    """

    source: Path
    names: tuple[str, ...]
    folders: tuple[str, ...]
    classes: tuple[str, ...]
    split: str | None


def list_pictures(source: Path, split: str | None) -> Listing:
    """List `[prefix/][split/]class/picture` of a folder, a tar archive (any compression) or a zip archive.

    Raises      InputError: no pictures, pictures outside class folders, a split that is not there, class folders at
                several places; an archive that would unpack to too much (`record.disk.unpacking`), leads out of itself
                or holds a name twice.
    """
    found = [name for name in _names(source) if _is_picture(name)]
    if not found:
        raise InputError(
            f"{source} holds no pictures ({', '.join(PICTURES)}). "
            "A folder of class folders is needed: <class>/<picture>."
        )
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(found):
        parts = tuple(name.split("/"))
        if len(parts) < 2:
            raise InputError(f"every picture must lie in a folder named after its class; {name} in {source} does not.")
        groups.setdefault(parts[:-2], []).append(name)
    part = split or DEFAULT
    chosen = [prefix for prefix in groups if part in prefix]
    named = sorted({part for prefix in groups for part in prefix if part in _SPLITS})
    if not chosen and named:
        raise InputError(f"{source} has no split {part!r}; it has {', '.join(named)}.")
    if not chosen:
        refuse_split(source, split)
    if len(chosen or groups) > 1:
        places = ", ".join("/".join(prefix) or "." for prefix in list(chosen or groups)[:5])
        raise InputError(
            f"class folders must lie side by side in one folder (or one per split); {source} has them in "
            f"{places}. Point to one of these."
        )
    (prefix,) = chosen or groups
    names = groups[prefix]
    return Listing(
        source=source,
        names=tuple(names),
        folders=tuple(name.split("/")[-2] for name in names),
        classes=tuple(sorted({name.split("/")[-2] for members in groups.values() for name in members})),
        split=part if chosen else None,
    )


def read_members(source: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of these members, each once, in the order in which the source can give them fastest."""
    wanted = set(names)
    if source.is_dir():
        for name in names:
            try:
                yield name, (source / name).read_bytes()
            except OSError as error:
                raise InputError(f"{source / name} cannot be read: {error.strerror or error}") from error
        return
    try:
        if source.suffix.lower() == ".zip":
            with zipfile.ZipFile(source) as packed:
                for name in names:
                    yield name, packed.read(name)
            return
        with members(source) as files:
            for archive, member in files:
                file = archive.extractfile(member) if (name := _plain(member.name)) in wanted else None
                if file is not None:
                    wanted.remove(name)
                    yield name, file.read()
                    if not wanted:
                        return
    except InputError:
        raise
    except DAMAGED as error:
        raise _damaged(source, error) from error


def _names(source: Path) -> list[str]:
    if source.is_dir():
        return [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    try:
        if source.suffix.lower() == ".zip":
            check_zip(source)
            with zipfile.ZipFile(source) as packed:
                found = [name for name in packed.namelist() if not name.endswith("/")]
        else:
            with members(source) as files:
                found = [_plain(member.name) for _, member in files]
    except InputError:
        raise
    except DAMAGED as error:
        raise _damaged(source, error) from error
    for name in found:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise InputError(f"{source} holds {name!r}, a path that leads out of the archive. Pack it again.")
    if len(set(found)) != len(found):
        twice = next(name for name in sorted(found) if found.count(name) > 1)
        raise InputError(f"{source} holds {twice!r} twice: which one is meant is anyone's guess. Pack it again.")
    return found


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _is_picture(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.lower().endswith(PICTURES)


def _damaged(source: Path, error: Exception) -> InputError:
    return InputError(f"{source} is truncated or no archive ({error}). Fetch or pack it again.")
