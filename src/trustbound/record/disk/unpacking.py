"""How much a file may unpack to: refused by what it declares before it is read, and by what comes while it is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trustbound.errors import InputError

#: Nothing may unpack to more than this and twice its own size.
MOST = 64 << 30
#: Beyond `FREE` bytes, nothing may grow by more than `FACTOR`: pictures and weights grow by less than 50.
FACTOR = 200
FREE = 1 << 30
_PIECE = 1 << 24
#: What reading a damaged archive may raise; RuntimeError for one that is encrypted.
DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    KeyError,
    RuntimeError,
)


def allowed(packed: int) -> int:
    """How many bytes a file of `packed` bytes may unpack to.

    >>> allowed(1000) == FREE, allowed(10**7), allowed(10**10) == MOST, allowed(10**12)
    (True, 2000000000, True, 2000000000000)
    """
    return max(2 * packed, min(MOST, max(FREE, FACTOR * packed)))


def refuse_bomb(path: Path | str, packed: int, unpacked: int) -> None:
    """Refuse what would unpack to more than is allowed.

    >>> refuse_bomb("small.npz", packed=1000, unpacked=10**12)
    Traceback (most recent call last):
    ...
    trustbound.errors.InputError: small.npz would unpack to 931.3 GiB from 1,000 bytes, which is ...
    """
    if unpacked > allowed(packed):
        raise InputError(
            f"{path} would unpack to {unpacked / 2**30:,.1f} GiB from {packed:,} bytes, which is refused unread: at "
            f"most {allowed(packed) / 2**30:,.1f} GiB are unpacked from so many. If it is what you expect, unpack it "
            "yourself and point to what comes out."
        )


def check_zip(path: Path) -> None:
    """Refuse a zip file by what its directory declares: too much, or two members of one name.

    Raises      zipfile.BadZipFile, OSError when it cannot be read as one.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    refuse_bomb(path, path.stat().st_size, sum(member.file_size for member in members))
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        twice = next(name for name in sorted(names) if names.count(name) > 1)
        raise InputError(f"{path} holds {twice!r} twice: which one is meant is anyone's guess. Pack it again.")


class _Bounded(io.RawIOBase):
    """A stream that is unpacked while it is read, up to a bound."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__()
        self.file, self.path, self.packed = file, path, path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes; InputError where the bound is passed."""
        here, bound = self.file.tell(), allowed(self.packed)
        if size is not None and size >= 0:
            refuse_bomb(self.path, self.packed, here + size)
            return self.file.read(size)
        # Piece by piece: a plain file makes room at once for all that it is asked for.
        held = bytearray()
        while here + len(held) <= bound and (piece := self.file.read(min(_PIECE, bound - here + 1 - len(held)))):
            held += piece
        refuse_bomb(self.path, self.packed, here + len(held))
        return bytes(held)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Forward, what lies between is unpacked."""
        target = offset + (self.file.tell() if whence == io.SEEK_CUR else 0)
        refuse_bomb(self.path, self.packed, target)
        return self.file.seek(target)

    def tell(self) -> int:
        return self.file.tell()


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """A file as it is, or what its gzip, bzip2 or xz compression holds, up to the bound."""
    with path.open("rb") as file:
        head = file.read(6)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opener = next((opener for magic, opener in openers.items() if head.startswith(magic)), None)
    with path.open("rb") if opener is None else opener(path, "rb") as file:
        yield _Bounded(file, path)


@contextmanager
def members(path: Path) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
    """The regular files of a tar archive, compressed or not: links, devices and folders are passed over.

    A member is refused by the size that its header declares, before it is read or passed over.
    """
    with unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        yield _files(path, archive)


def _files(path: Path, archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    declared, packed = 0, path.stat().st_size
    for member in archive:
        declared += member.size
        refuse_bomb(path, packed, declared)
        if member.isfile():
            yield archive, member
        archive.members.clear()  # type: ignore[attr-defined]  # else every header that was read is kept
