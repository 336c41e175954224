"""One picture file to its pixel values, exactly, or a refusal: nothing is rounded, guessed or dropped in silence."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trustbound.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Formats by content, whatever the file is called: none of them runs another program (as EPS does).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_FLAT = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
_DEEP = "with 16 bits per channel only PNG (grey or colour) and grey TIFF can be read exactly"


def decode(raw: bytes, where: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Pixels (H, W) of a grey picture or (H, W, 3), uint8 or, of a file with 16 bits per channel, uint16.

    Exact       1, 2 and 4 bits are spread over 0..255 without loss; palettes become their colours. Pixels are as
                stored: orientation tags, gamma and colour profiles are not applied.
    Raises      InputError: damaged, larger than Pillow's limit, more than one frame, transparent pixels, CMYK and
                other colour spaces, values that 8 or 16 bits cannot hold.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
                _refuse_frames(opened, where)
                if _is_deep(opened, raw, where):
                    return _sixteen(opened, raw, where)
                return np.asarray(flat(opened, where), dtype=np.uint8)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{where} is too large a picture: {error}. Shrink it before, or leave it out.") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"{where} cannot be decoded as a picture: {error}. Repair or remove it.") from error


def flat(picture: Image, where: str) -> Image:
    """A picture of 8 bits per channel as grey ("L") or colour ("RGB"); alpha is dropped where it is opaque.

    Raises      InputError: transparent pixels, CMYK and other colour spaces, more than 8 bits per channel.
    """
    if (wanted := _FLAT.get(picture.mode)) is None:
        raise InputError(
            f"{where} has the colour mode {picture.mode}; pictures must be grey or RGB of 8 or 16 bits per channel. "
            "Convert it first, or use an .npz."
        )
    if picture.mode.endswith("A") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        if whole.getchannel("A").getextrema()[0] != 255:
            raise InputError(
                f"{where} has transparent pixels, which have no colour of their own. Lay it over a background first."
            )
        return whole.getchannel("R") if wanted == "L" else whole.convert("RGB")
    return picture.convert(wanted)


def _refuse_frames(opened: Any, where: str) -> None:
    frames = getattr(opened, "n_frames", 1) if opened.format != "MPO" else 1  # behind a JPEG: previews, depth maps
    if frames > 1:
        raise InputError(f"{where} holds {frames} frames; one picture is needed. Save the one that is meant.")


def _is_deep(opened: Any, raw: bytes, where: str) -> bool:
    """Whether a file stores 16 bits per channel, by its own header; other depths beyond 8 are refused.

    Pillow keeps the upper 8 bits of 16-bit colour and says nothing.
    """
    if opened.format == "PNG":
        return raw[24] == 16  # IHDR is the first chunk: width, height, bit depth, colour type
    if opened.format == "PPM" and (most := _largest(raw)) != 255:
        raise InputError(f"{where} counts to {most}, not to 255; {_DEEP}. Save it as PNG.")
    if opened.format == "TIFF":
        bits = tuple(opened.tag_v2.get(258, (1,)))
        if max(bits) > 8:
            plain = bits == (16,) and opened.tag_v2.get(262) == 1 and opened.tag_v2.get(339, (1,)) in (1, (1,))
            if not plain or not opened.mode.startswith("I;16"):
                raise InputError(f"{where} has {bits} bits per channel (mode {opened.mode}); {_DEEP}. Save it as PNG.")
            return True
    return False


def _largest(raw: bytes) -> int:
    """The number that a PGM or PPM header gives for white; 255 for files without one (PBM)."""
    lines = raw[:4096].split(b"\n")
    words = b" ".join(line.split(b"#")[0] for line in lines).split()
    return 255 if words[0] in (b"P1", b"P4") else int(words[3])


def _sixteen(opened: Any, raw: bytes, where: str) -> NDArray[np.uint16]:
    """The values of a picture with 16 bits per channel.

    Pillow has no mode for 16-bit colour, but it has unpackers for both byte orders that keep the upper byte: read in
    the order of the file they give the upper bytes, read in the other order the lower ones.
    """
    if opened.mode.startswith("I"):
        if "transparency" in opened.info:
            raise InputError(f"{where} declares a transparent grey; lay it over a background first.")
        return np.asarray(opened).astype(np.uint16)
    kind = opened.tile[0][3]
    kind = kind if isinstance(kind, str) else kind[0]
    if kind == "LA;16B":  # four bytes a pixel: grey and alpha, upper byte first
        grey = _unpacked(raw, "RGBA").astype(np.uint16)
        values = np.stack([grey[..., 0] << 8 | grey[..., 1], grey[..., 2] << 8 | grey[..., 3]], axis=-1)
    elif kind in ("RGB;16B", "RGBA;16B"):
        upper, lower = (_unpacked(raw, kind[:-1] + order).astype(np.uint16) for order in "BL")
        values = upper << 8 | lower
    else:
        raise InputError(f"{where} is stored as {kind}; {_DEEP}. Save it as one of these.")
    opaque = values.shape[-1] == 3 or bool((values[..., -1] == 65535).all())
    if not opaque or "transparency" in opened.info:
        raise InputError(
            f"{where} has transparent pixels, which have no colour of their own. Lay it over a background."
        )
    return values[..., 0] if values.shape[-1] == 2 else values[..., :3]


def _unpacked(raw: bytes, kind: str) -> NDArray[np.uint8]:
    from PIL import Image

    opened: Any
    with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
        opened.tile = [(*opened.tile[0][:3], kind)]
        values: NDArray[np.uint8] = np.asarray(opened)
        return values
