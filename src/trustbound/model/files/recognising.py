"""What a file holds, told from its content: never from its name, and without loading anything."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from trustbound.errors import InputError
from trustbound.model.files.registry import FILES
from trustbound.record.disk.unpacking import check_zip

#: So many bytes are looked at where a file begins.
_HEAD = 1 << 16

#: Bytes and where they stand.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "git-lfs"),
    (0, b"GGUF", "gguf"),
    (0, b"ggml", "gguf"),
    (0, b"lmgg", "gguf"),
    (0, b"CBM1", "catboost"),
    (0, b"binf", "xgboost-binary"),
    (0, b"\x93NUMPY", "numpy"),
    (4, b"TFL3", "tflite"),
    (4, b"ET12", "executorch"),
    (0, b"tree\nversion=", "lightgbm"),
    (0, b"tree\r\nversion=", "lightgbm"),
)
#: An HDF5 file may have a block of its user's before it, of 512 bytes or twice as many again and again.
_HDF5 = (0, *(512 << doubled for doubled in range(8)))
_COMPRESSED: tuple[tuple[bytes, Callable[[], object] | None], ...] = (
    (b"\x1f\x8b", lambda: zlib.decompressobj(31)),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lzma.LZMADecompressor),
    (b"\x5d\x00\x00", lzma.LZMADecompressor),
    (b"x\x01", zlib.decompressobj),
    (b"x\x5e", zlib.decompressobj),
    (b"x\x9c", zlib.decompressobj),
    (b"x\xda", zlib.decompressobj),
    (b"\x04\x22\x4d\x18", None),
    (b"\x28\xb5\x2f\xfd", None),
)
#: The first number of a checkpoint that torch wrote before 1.6, as pickled bytes.
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
#: Fields of ONNX's ModelProto, by their numbers.
_ONNX = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})


def recognise(path: Path) -> str:
    """The name of the kind of a file or folder, a row of `model.files.registry`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "model.pt").write_bytes(b"<!DOCTYPE html><html>404</html>")
    ...     recognise(Path(folder, "model.pt"))
    'html'
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise InputError(f"the file {str(path)!r} does not exist")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            if any(_at(file, place, 8) == b"\x89HDF\r\n\x1a\n" for place in _HDF5):
                return "hdf5"
    except OSError as error:
        raise InputError(f"the file {str(path)!r} cannot be read: {error.strerror or error}") from error
    if not head.strip(b"\0 \r\n\t"):
        return "empty"
    for place, magic, name in _MAGIC:
        if head[place:].startswith(magic):
            return name
    if zipfile.is_zipfile(path):
        return _zip(path)
    if head.startswith(b"PK\x03\x04"):
        return "zip-cut-short"
    if head[8:9] == b"{" and 1 < int.from_bytes(head[:8], "little") <= 1 << 28:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "archive"
    if (packed := _compressed(head)) is not None:
        return packed
    if head[:1] == b"\x80" and 0 < head[1] <= 5:
        return "torch-checkpoint" if _LEGACY in head[:32] else "pickle"
    if _is_onnx(path):
        return "onnx"
    if _is_msgpack(head):
        return "flax"
    return _text(head)


def refusal(path: Path, kind: str) -> InputError:
    """What to do with a file of a kind, as an error.

    >>> print(refusal(Path("net.pt"), "git-lfs"))
    net.pt is a Git LFS pointer, a few lines that stand for the real file: fetch the file itself with `git lfs pull`.
    """
    row = FILES.find(kind)
    what = row.line
    if kind in ("pickle", "joblib") and (named := pickled_classes(path)):
        what = f"{what} (it names {', '.join(named[:3])})"
    return InputError(f"{path} is {what}: {row.advice.format(path=path)}.")


def refuse_foreign(path: Path) -> str:
    """The kind of a file of weights, once it may be one: what holds no weights of torch is refused in one sentence."""
    kind = recognise(path)
    if not FILES.find(kind).loads and kind != "unknown":
        raise refusal(path, kind)
    if kind in ("skops", "pickle", "joblib", "lightgbm", "xgboost", "onnx"):
        raise InputError(
            f"{path} is {FILES.find(kind).line}: as weights it cannot be read. A model of its own is "
            "named alone, without an architecture; weights are saved with torch.save(model.state_dict(), …)."
        )
    return kind


def pickled_classes(path: Path) -> list[str]:
    """Classes and functions that a pickle names first, without loading it.

    >>> import pickle, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.pkl").write_bytes(pickle.dumps(Path("a")))
    ...     pickled_classes(Path(folder, "a.pkl"))[0].startswith("pathlib")
    True
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    head = _unpacked(head) or head
    found: list[str] = []
    texts: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(head):
            if code.name in ("GLOBAL", "INST"):
                found.append(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL" and len(texts) > 1:
                found.append(f"{texts[-2]}.{texts[-1]}")
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # cut where the head ends, or where joblib puts an array between
        pass
    return list(dict.fromkeys(found))


def _at(file: IO[bytes], place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _folder(path: Path) -> str:
    held = {one.name for one in path.iterdir()}
    if not held:
        return "empty"
    if held & {"saved_model.pb", "saved_model.pbtxt"}:
        return "saved-model"
    if held & {"_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"}:
        return "orbax"
    if ".metadata" in held and any(name.endswith(".distcp") for name in held):
        return "torch-sharded"
    if "Manifest.json" in held and (path / "Data").is_dir():
        return "core-ml"
    if "config.json" in held and _mentions(path / "config.json", ("model_type", "architectures")):
        return "transformers"
    if any(name.endswith(".index") and _is_table(path / name) for name in held):
        return "tensorflow-checkpoint"
    return "folder"


def _mentions(path: Path, keys: tuple[str, ...]) -> bool:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and any(key in held for key in keys)


def _is_table(path: Path) -> bool:
    """Whether a file is a table of TensorFlow's, by the number at its end."""
    return path.is_file() and path.read_bytes()[-8:] == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


def _zip(path: Path) -> str:
    """Export archives have a serialised program, TorchScript `constants.pkl` and a folder `code`.

    Raises      InputError for an archive that would unpack to too much, see `record.disk.unpacking`.
    """
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return "zip-cut-short"
    inner = {name.partition("/")[2] for name in names} | names
    if "serialized_exported_program.json" in inner or any(
        name.startswith("models/") and name.endswith(".json") for name in inner
    ):
        return "torch-export"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "torch-checkpoint"
    if {"config.json", "metadata.json"} <= names and any(name.endswith(".weights.h5") for name in names):
        return "keras"
    if "schema.json" in names:
        return "skops"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy"
    return "zip"


def _compressed(head: bytes) -> str | None:
    if not any(head.startswith(magic) for magic, _ in _COMPRESSED):
        return None
    inner = _unpacked(head)
    if inner is None:  # lz4 and zstd need libraries of their own
        return "joblib" if head.startswith(b"\x04\x22\x4d\x18") else "archive"
    if _begins_as_onnx(inner):
        return "onnx"
    return "joblib" if inner[:1] == b"\x80" and inner[1:2] in (b"\2", b"\3", b"\4", b"\5") else "archive"


def _unpacked(head: bytes) -> bytes | None:
    """The first bytes of what is compressed; None where it is not, or cannot be read."""
    for magic, make in _COMPRESSED:
        if head.startswith(magic) and make is not None:
            try:
                opened: bytes = make().decompress(head, _HEAD)  # type: ignore[attr-defined]
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
                continue
            return opened
    return None


def _is_onnx(path: Path) -> bool:
    """Whether the fields of the outermost message are ModelProto's, with a version of the format and a graph."""
    with path.open("rb") as file:
        size = path.stat().st_size
        seen = set()
        for number, kind, value in _fields(file, size):
            if number not in _ONNX or (number == 1 and (kind != 0 or not 0 < value < 1000)):
                return False
            if number == 7 and kind != 2:
                return False
            seen.add(number)
        return {1, 7} <= seen and file.tell() == size


def _begins_as_onnx(head: bytes) -> bool:
    """Whether what was unpacked of a file begins with fields of ModelProto, as far as its graph."""
    seen = [number for number, _, _ in _fields(io.BytesIO(head), 1 << 62)]
    return 7 in seen and 1 in seen and set(seen) <= _ONNX


def _fields(file: IO[bytes], size: int) -> Iterator[tuple[int, int, int]]:
    """(number, wire type, value or length) of each field of a protobuf message; ends early where it is none."""
    while file.tell() < size:
        tag = _varint(file)
        if tag is None or not tag >> 3 or tag & 7 not in (0, 2):
            return
        value = _varint(file)
        if value is None:
            return
        if tag & 7 == 2:
            if file.tell() + value > size:
                return
            file.seek(value, 1)
        yield tag >> 3, tag & 7, value


def _varint(file: IO[bytes]) -> int | None:
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    return None


def _is_msgpack(head: bytes) -> bool:
    """Whether it begins with a map whose first key is a name: 0x81 to 0x8f, 0xde or 0xdf, then a short text."""
    after = {**{first: 1 for first in range(0x81, 0x90)}, 0xDE: 3, 0xDF: 5}.get(head[0])
    if after is None or len(head) <= after + 1:
        return False
    first = head[after]
    begins, length = (after + 1, first & 0x1F) if 0xA0 <= first <= 0xBF else (after + 2, head[after + 1])
    named = 0xA0 <= first <= 0xBF or first == 0xD9
    return named and re.fullmatch(rb"[\w./ -]+", head[begins : begins + length]) is not None


def _text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = start[:2048].lower()
    if re.match(rb"(<!--.*?-->\s*)*(<!doctype html|<html|<head|<body)", lower, re.DOTALL):
        return "html"
    if start.startswith(b"{"):
        if re.match(rb'\{(L.{8}|\s*"?|[iUIl].{1,4}?)learner', start, re.DOTALL):
            return "xgboost"
        if re.match(rb'\{\s*"(learner|version)"', start) and b'"learner"' in head:
            return "xgboost"
    if b"<pmml" in lower:
        return "pmml"
    if re.match(rb"(<\?xml[^>]*>\s*)?<net[\s>]", lower):
        return "openvino"
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return "unknown"
    if not all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return "unknown"
    return "json" if start[:1] in (b"{", b"[") else "text"
