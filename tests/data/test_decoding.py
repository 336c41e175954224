"""Every kind of picture file: its exact values, or one sentence that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch.utils.data import Dataset

from trustbound.data import LabelledSet, load_data
from trustbound.data.readers.decoding import decode
from trustbound.errors import InputError

RANDOM = np.random.default_rng(7)
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def paeth(left, up, corner):
    guess = left + up - corner
    return min((left, up, corner), key=lambda one: abs(guess - one))


def filtered(rows, step):
    """The rows of bytes, each behind a filter of another kind, as the PNG specification defines them."""
    before, written = bytes(len(rows[0])), b""
    for number, row in enumerate(rows):
        kind, out = number % 5, bytearray()
        for place, value in enumerate(row):
            left = row[place - step] if place >= step else 0
            corner = before[place - step] if place >= step else 0
            guess = (0, left, before[place], (left + before[place]) // 2, paeth(left, before[place], corner))[kind]
            out.append((value - guess) % 256)
        written += bytes([kind]) + out
        before = row
    return written


def png(values, *, interlaced=False, extra=b""):
    """A PNG of 16 bits per channel, written from the specification."""
    pixels = values[..., None] if values.ndim == 2 else values
    height, width, channels = pixels.shape
    step = 2 * channels
    parts = [pixels[y::dy, x::dx] for x, y, dx, dy in PASSES] if interlaced else [pixels]
    body = b"".join(filtered([row.astype(">u2").tobytes() for row in part], step) for part in parts if part.size)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    parts = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_per_channel_are_read_to_the_last(channels, interlaced):
    values = RANDOM.integers(0, 65536, (13, 11, channels)).astype(np.uint16)
    values[0, :8, 0] = [0, 1, 255, 256, 257, 65279, 65280, 65535]
    if channels in (2, 4):
        values[..., -1] = 65535
    wanted = {1: values[..., 0], 2: values[..., 0], 3: values, 4: values[..., :3]}[channels]
    read = decode(png(values if channels > 1 else values[..., 0], interlaced=interlaced), "here")
    assert read.dtype == np.uint16
    assert np.array_equal(read, wanted)
    if channels in (2, 4):
        values[3, 4, -1] = 65534  # the lower byte alone says that it is not opaque
        with pytest.raises(InputError, match="here has transparent pixels"):
            decode(png(values, interlaced=interlaced), "here")


def test_sixteen_bit_files_of_others():
    grey = RANDOM.integers(0, 65536, (4, 6)).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(saved(Image.fromarray(grey), kind), "here"), grey)


def test_a_folder_of_sixteen_bit_pictures_is_scaled_by_65535(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    deep = RANDOM.integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    shallow = RANDOM.integers(0, 256, (5, 4), dtype=np.uint8)
    (tmp_path / "a" / "0.png").write_bytes(png(deep))
    (tmp_path / "b" / "0.png").write_bytes(saved(Image.fromarray(shallow), "PNG"))
    data = load_data(tmp_path)
    assert torch.equal(data.inputs[0], torch.from_numpy(deep.transpose(2, 0, 1).astype(np.float32)) / 65535)
    assert torch.equal(data.inputs[1], (torch.from_numpy(shallow).float() / 255).expand(3, 5, 4))
    wide = load_data(tmp_path, box=(-1, 3))
    assert torch.allclose(wide.inputs, data.inputs * 4 - 1, atol=1e-6)
    assert not data.eight_bit
    # Resizing and cropping do not fall back to 8 bits.
    small = load_data(tmp_path, resize=(4, 4), crop=2)
    assert small.shape == (3, 2, 2)
    assert not small.eight_bit
    flat = png(np.full((6, 6), 40_001, dtype=np.uint16))
    for name in "ab":
        (tmp_path / name / "0.png").write_bytes(flat)
    for interpolation in ("nearest", "bilinear", "bicubic", "lanczos"):
        even = load_data(tmp_path, resize=4, interpolation=interpolation)
        assert even.shape == (1, 4, 4)
        assert even.inputs.numpy() == pytest.approx(40_001 / 65535, abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_spread_without_loss(bits):
    levels = np.arange(2**bits, dtype=np.uint8)[None]
    width = levels.shape[1]
    packed = np.packbits(np.unpackbits(levels[0][:, None], axis=1)[:, -bits:].reshape(-1)).tobytes()

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    raw = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + packed))
        + chunk(b"IEND", b"")
    )
    assert decode(raw, "here").tolist() == (levels * (255 // (2**bits - 1))).tolist()


def test_palettes_become_their_colours_and_opaque_alpha_is_dropped():
    colours = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    colours[...] = colours[0, 0]
    colours[2:] = (1, 2, 3)
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(decode(saved(palette, kind), "here"), colours)
    grey = RANDOM.integers(0, 256, (5, 4), dtype=np.uint8)
    opaque = np.dstack([colours, np.full((5, 4), 255, dtype=np.uint8)])
    assert np.array_equal(decode(saved(Image.fromarray(opaque), "PNG"), "here"), colours)
    la = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (4, 5), 255)])
    assert np.array_equal(decode(saved(la, "PNG"), "here"), grey)
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PNG", transparency=int(grey.max()) + 1), "here"), grey)
    assert np.array_equal(decode(saved(Image.fromarray(grey), "PPM"), "here"), grey)
    assert np.array_equal(decode(saved(Image.fromarray(colours), "PPM"), "here"), colours)


def frames(kind):
    many = [Image.new("RGB", (4, 4), (50 * n, 0, 0)) for n in range(3)]
    return saved(many[0], kind, save_all=True, append_images=many[1:])


def cases():
    grey = Image.fromarray(RANDOM.integers(0, 256, (5, 4), dtype=np.uint8))
    colour = Image.fromarray(RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(np.full((5, 4), 254, dtype=np.uint8)))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    deep = RANDOM.integers(0, 65536, (3, 4), dtype=np.uint16)
    tiff = {
        "float": Image.fromarray(RANDOM.random((3, 4), dtype=np.float32)),
        "int32": Image.fromarray(RANDOM.integers(0, 99, (3, 4), dtype=np.int32)),
    }
    key = struct.pack(">I", 2) + b"tRNS" + b"\0\7" + struct.pack(">I", zlib.crc32(b"tRNS\0\7"))
    yield "rgba", saved(clear, "PNG"), "transparent pixels"
    yield "la", saved(Image.merge("LA", [grey, Image.new("L", grey.size, 10)]), "PNG"), "transparent pixels"
    yield "trns grey", saved(grey, "PNG", transparency=int(np.asarray(grey)[0, 0])), "transparent pixels"
    yield "trns colour", saved(colour, "PNG", transparency=colour.getpixel((0, 0))), "transparent pixels"
    yield "trns palette", saved(palette, "PNG", transparency=0), "transparent pixels"
    yield "gif", saved(palette, "GIF", transparency=0), "transparent pixels"
    yield "trns 16 bit", png(deep, extra=key), "transparent"
    yield "cmyk jpeg", saved(colour.convert("CMYK"), "JPEG"), "colour mode CMYK"
    yield "cmyk tiff", saved(colour.convert("CMYK"), "TIFF"), "colour mode CMYK"
    yield "lab tiff", saved(colour.convert("LAB"), "TIFF"), "colour mode LAB"
    yield "float tiff", saved(tiff["float"], "TIFF"), r"\(32,\) bits per channel"
    yield "int32 tiff", saved(tiff["int32"], "TIFF"), r"\(32,\) bits per channel"
    yield "16-bit pgm", b"P5\n# deep\n2 1\n65535\n" + bytes([1, 2, 3, 4]), "counts to 65535"
    yield "16-bit ppm", b"P6 1 1 65535\n" + bytes(range(6)), "counts to 65535"
    yield "odd pgm", b"P5 2 1 100\n" + bytes([50, 99]), "counts to 100"
    yield "gif frames", frames("GIF"), "holds 3 frames"
    yield "webp frames", frames("WEBP"), "holds 3 frames"
    yield "png frames", frames("PNG"), "holds 3 frames"
    yield "tiff pages", frames("TIFF"), "holds 3 frames"
    yield "postscript", saved(colour, "EPS"), "cannot be decoded"
    yield "nothing", b"", "cannot be decoded"
    yield "cut", png(deep)[:-30], "cannot be decoded"


@pytest.mark.parametrize(("name", "raw", "said"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_what_cannot_be_read_exactly_is_refused_in_one_sentence(name, raw, said):
    with pytest.raises(InputError, match=f"^here.*{said}"):
        decode(raw, "here")


def sixteen_bit_colour_tiff():
    """Uncompressed, little-endian, 1×1."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 146), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 140)]
    tags += [(277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6), (284, 3, 1, 1)]
    body = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack("<I", value) for tag, kind, count, value in tags
    )
    head = struct.pack("<2sHI", b"II", 42, 8) + body + struct.pack("<I", 0)
    return head.ljust(140, b"\0") + struct.pack("<3H", 300, 301, 302) + struct.pack("<3H", 16, 16, 16)


def test_sixteen_bit_colour_tiff_is_refused_rather_than_cut():
    raw = sixteen_bit_colour_tiff()
    with Image.open(io.BytesIO(raw)) as opened:
        assert np.asarray(opened).tolist() == [[[1, 1, 1]]]  # what Pillow makes of 300, 301, 302
    with pytest.raises(InputError, match=r"\(16, 16, 16\) bits per channel"):
        decode(raw, "here")


def test_a_declared_size_beyond_the_limit_is_refused_before_decoding():
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    for side in (10_000, 50_000, 2**31 - 1):
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        raw = (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
        )
        with pytest.raises(InputError, match=r"too large a picture|cannot be decoded"):
            decode(raw, "here")


def test_orientation_tags_are_left_alone():
    pixels = RANDOM.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    assert np.array_equal(decode(saved(Image.fromarray(pixels), "PNG", exif=exif), "here"), pixels)


class Pictures(Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, row):
        return self.pictures[row], row


def test_pictures_of_a_dataset_follow_the_same_rules():
    colours = np.zeros((4, 4, 3), dtype=np.uint8)
    colours[:2] = (9, 8, 7)
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    data = LabelledSet.from_dataset(Pictures([palette, Image.fromarray(colours)]))
    assert torch.equal(data._stored[0], data._stored[1])
    assert data._stored[0].tolist() == colours.transpose(2, 0, 1).tolist()
    for wrong in (Image.new("RGBA", (4, 4), (1, 2, 3, 4)), Image.new("CMYK", (4, 4)), Image.new("I;16", (4, 4))):
        with pytest.raises(InputError, match="a picture of the dataset"):
            LabelledSet.from_dataset(Pictures([wrong]))


def test_the_frames_made_here_are_frames():
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        with Image.open(io.BytesIO(frames(kind))) as opened:
            assert len(list(ImageSequence.Iterator(opened))) == 3
