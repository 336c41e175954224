"""Find a published file on this machine, or fetch it once, checked and complete or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trustbound.data.registry import PublishedFile, PublishedSet
from trustbound.errors import InputError

Progress = Callable[[int, int | None], None]
_CHUNK = 1 << 18
_ATTEMPTS = 3


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/trustbound`, else `~/.cache/trustbound`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "trustbound"


def locate(row: PublishedSet, split: str, data_dir: str | Path | None = None) -> dict[str, Path]:
    """The paths of the files that a split needs, fetched into the user cache where no local copy is found.

    Order       `data_dir`, `$TRUSTBOUND_DATA`, the user cache; in each the set's usual sub-folders; then its
                mirrors. An uncompressed copy (the same name without `.gz`) counts.
    Raises      InputError naming every place looked at and what to put there.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise InputError(f"`data_dir` must be a folder; got {str(data_dir)!r}")
    roots = [Path(root) for root in (data_dir, os.environ.get("TRUSTBOUND_DATA")) if root]
    places = [root / folder for root in roots for folder in row.folders]
    places.append(cache_folder() / row.name)
    found: dict[str, Path] = {}
    for file in row.files_of(split):
        here = next((path for place in places if (path := _present(place, file)) is not None), None)
        if here is None:
            here = places[-1] / file.name
            try:
                fetch([mirror + file.name for mirror in row.mirrors], here, file.sha256)
            except (InputError, OSError) as error:
                looked = ", ".join(str(place) for place in places)
                raise InputError(
                    f"{row.name} needs {file.name}, which is in none of {looked}, and fetching it failed: "
                    f"{error}. Put the file into one of these folders, or name its folder with data_dir "
                    "(--data-dir) or $TRUSTBOUND_DATA."
                ) from error
        found[file.name] = here
    return found


def _present(place: Path, file: PublishedFile) -> Path | None:
    for name in (file.name, file.name.removesuffix(".gz")):
        if (place / name).is_file():
            return place / name
    return None


def fetch(
    urls: Sequence[str], target: Path, sha256: str, *, progress: Progress | None = None, timeout: float = 30.0
) -> Path:
    """Download the first URL that gives the right bytes, and put the file in place in one step.

    A transfer that stops leaves `<name>.part`, and the next attempt, of this call or a later one, asks the
    server for the rest only (HTTP Range). The digest covers the whole file and is checked before the rename;
    bytes that do not match are thrown away. Two processes that want the same file wait for each other (on
    systems with `flock`).

    Raises      InputError listing what each URL answered.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    answers: list[str] = []
    with _locked(target.with_name(target.name + ".lock")):
        if target.is_file():
            return target  # another process fetched it while this one waited
        shown = progress or _on_terminal(target.name)
        for url in urls:
            for _ in range(_ATTEMPTS):
                resumed = part.exists()
                try:
                    _transfer(url, part, shown, timeout)
                except urllib.error.HTTPError as error:
                    answers.append(f"{url}: HTTP {error.code} {error.reason}")
                    break  # the server knows its mind
                except (OSError, http.client.HTTPException) as error:
                    answers.append(f"{url}: {error}")
                    continue
                if (came := _digest(part)) == sha256:
                    with part.open("rb") as file:
                        os.fsync(file.fileno())
                    part.replace(target)
                    return target
                part.unlink()
                answers.append(f"{url}: wrong content, SHA-256 {came} instead of {sha256}")
                if not resumed:
                    break
    raise InputError("; ".join(dict.fromkeys(answers)) or "no mirror is known")


def _transfer(url: str, part: Path, progress: Progress, timeout: float) -> None:
    """Append what is missing to `part`; OSError when the connection ends before the last byte."""
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "trustbound"})
    if held:
        request.add_header("Range", f"bytes={held}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not held:
            raise
        error.close()
        if error.headers.get("Content-Range", "") == f"bytes */{held}":
            return  # everything had arrived already
        part.unlink()
        return _transfer(url, part, progress, timeout)
    with answer:
        continued = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        length = answer.headers.get("Content-Length")
        start = held if continued else 0
        total = start + int(length) if length else None
        with part.open("ab" if continued else "wb") as file:
            done = start
            progress(done, total)
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no advisory locks here: the rename still keeps a finished file whole
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _on_terminal(name: str) -> Progress:
    """A line on stderr that rewrites itself, where somebody is looking; silence elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int | None) -> None:
        share = f"{100 * done // total:3d} % of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        sys.stderr.write(f"\rfetching {name}: {share}" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return show
