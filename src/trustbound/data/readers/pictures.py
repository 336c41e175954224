"""A folder of class folders of pictures, or an archive of one, decoded exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.data.readers.class_index import ClassIndex, class_order
from trustbound.data.readers.decoding import decode
from trustbound.data.readers.picture_paths import list_pictures, read_members
from trustbound.data.stratified import draw_stratified
from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.record.disk.unpacking import refuse_bomb

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
Size = int | tuple[int, int]
Pixels = NDArray[np.uint8] | NDArray[np.float32]


def read_pictures(
    source: Path,
    split: str | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    resize: Size | None = None,
    crop: Size | None = None,
    interpolation: str | None = None,
    class_index: ClassIndex | None = None,
    box: Box | None = None,
) -> LabelledSet:
    """Pictures of `[prefix/][split/]class/picture` as (N, 3, H, W), (N, 1, H, W) if all are grey.

    Kept as uint8; where a picture has 16 bits per channel, all as float32, value / 65535 or value / 255 of the box.

    Parameters
        limit, seed    drawn stratified from the names, so that only the chosen pictures are decoded.
        resize         a number: the shorter side, aspect kept; a pair: exactly (height, width).
        crop           a number or (height, width), cut from the centre after resizing.
        interpolation  of resize: bilinear unless given, nearest, bicubic or lanczos; shrinking smooths first (Pillow).
        class_index    which class number each folder has; None asks the folder names, see `class_numbers`.

    Raises      InputError: a picture that cannot be read exactly (named), differing sizes, an unknown split.
    Deviations  pixels are as stored: orientation tags, gamma and colour profiles are not applied (nor does
                torchvision). Pictures that are transparent, animated or CMYK are refused, see `decoding.decode`.
    """
    if interpolation is not None and resize is None:
        raise InputError(f"`interpolation` says how to resize; got {interpolation!r} without resize. Leave it out.")
    interpolation = interpolation or "bilinear"
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"`interpolation` must be one of {', '.join(INTERPOLATIONS)}; got {interpolation!r}")
    target, window = _size("resize", resize), _size("crop", crop)
    listing = list_pictures(source, split)
    numbers, names = class_order(listing.classes, class_index)
    labels = np.array([numbers[folder] for folder in listing.folders], dtype=np.int64)
    rows = draw_stratified(labels, limit, seed)
    chosen = [listing.names[row] for row in rows]
    place = {name: row for row, name in enumerate(chosen)}
    decoded: list[Pixels | None] = [None] * len(chosen)
    first: tuple[str, tuple[int, int]] | None = None
    packed = unpacked = 0
    for name, raw in read_members(source, chosen):
        pixels = _decode(raw, f"{source}: {name}", target, window, interpolation)
        packed, unpacked = packed + len(raw), unpacked + pixels.nbytes
        refuse_bomb(source, packed, unpacked)
        size = (pixels.shape[1], pixels.shape[2])
        first = first or (name, size)
        if size != first[1]:
            raise InputError(
                f"all pictures must have one size; {first[0]} is {first[1][0]}×{first[1][1]} and {name} is "
                f"{size[0]}×{size[1]} in {source}. Pass resize and crop."
            )
        decoded[place[name]] = pixels
    if missing := [name for name, pixels in zip(chosen, decoded, strict=True) if pixels is None]:
        raise InputError(f"{missing[0]} vanished from {source} while it was being read")
    whole = [pixels for pixels in decoded if pixels is not None]
    channels = max(len(pixels) for pixels in whole)
    stem = source.name
    for ending in (".tar.gz", ".tar.bz2", ".tar.xz", source.suffix if source.is_file() else ""):
        stem = stem.removesuffix(ending) if ending else stem
    box = box or Box(0.0, 1.0)
    return LabelledSet(
        _joined(whole, channels, box),
        labels[rows],
        box=box,
        class_names=names,
        name=stem if listing.split is None else f"{stem}/{listing.split}",
        indices=rows,
    )


def _size(name: str, value: Any) -> Size | None:
    if value is None:
        return None
    sides: Sequence[Any] = (value,) if isinstance(value, int) else value
    good = isinstance(sides, list | tuple) and len(sides) in (1, 2)
    if not good or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"`{name}` must be a number of pixels or a pair (height, width); got {value!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def _joined(pictures: Sequence[NDArray[Any]], channels: int, box: Box) -> NDArray[Any]:
    """All pictures with as many channels, uint8 where all are; else values of the box."""
    pixels = [np.broadcast_to(one, (channels, *one.shape[1:])) for one in pictures]
    if all(one.dtype == np.uint8 for one in pixels):
        return np.stack(pixels)
    unit = np.stack([one / np.float32(255.0) if one.dtype == np.uint8 else one for one in pixels])
    return (unit if box == Box(0.0, 1.0) else box.low + unit * (np.asarray(box.high) - box.low)).astype(np.float32)


def _decode(raw: bytes, where: str, resize: Size | None, crop: Size | None, interpolation: str) -> Pixels:
    """Channels first: uint8, or float32 in [0, 1] for a picture of 16 bits per channel."""
    from PIL import Image

    pixels = decode(raw, where)
    if pixels.dtype == np.uint8:
        picture = _cropped(_resized(Image.fromarray(pixels), resize, interpolation), crop, where)
        small = np.asarray(picture, dtype=np.uint8)
        return small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    shaped = [
        np.asarray(_cropped(_resized(Image.fromarray(plane), resize, interpolation), crop, where))
        for plane in planes.astype(np.float32)
    ]
    return (np.stack(shaped) / np.float32(65535.0)).clip(0.0, 1.0)


def _resized(picture: Image, size: Size | None, interpolation: str) -> Image:
    from PIL import Image

    if size is None:
        return picture
    width, height = picture.size
    if isinstance(size, int):
        short = min(width, height)
        wanted = (size * width // short, size * height // short)
    else:
        wanted = (size[1], size[0])
    if wanted == picture.size:
        return picture
    return picture.resize(wanted, Image.Resampling[interpolation.upper()])


def _cropped(picture: Image, size: Size | None, where: str) -> Image:
    if size is None:
        return picture
    height, width = (size, size) if isinstance(size, int) else size
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    if width > picture.width or height > picture.height:
        raise InputError(
            f"the crop {height}×{width} must fit into the picture; {where} is "
            f"{picture.height}×{picture.width}. "
            "Resize to at least the crop."
        )
    return picture.crop((left, top, left + width, top + height))
