"""Files that declare, or become, far more than they are: refused in a sentence, before they fill the memory."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import resource
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import trustbound.record.disk.unpacking as rule
from trustbound.data import load_data
from trustbound.data.readers.cifar import read_cifar10
from trustbound.data.readers.idx import read_idx
from trustbound.data.registry import DATA
from trustbound.errors import InputError
from trustbound.model import load_model
from trustbound.model.files.weights import read_weights
from trustbound.record.disk.unpacking import allowed, unpacked

GIB = 1 << 30


@pytest.fixture(autouse=True)
def little_memory():
    """Whoever makes room for a bomb fails here: at most 3 GiB more than the process has already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 3 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="session")
def zeros(tmp_path_factory):
    """96 MiB of zeros in 96 kB."""
    path = tmp_path_factory.mktemp("bombs") / "zeros.gz"
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(96):
            file.write(bytes(1 << 20))
    return path


@pytest.fixture
def small(monkeypatch):
    """What may be unpacked freely, so small that a bomb can be made in a test."""
    monkeypatch.setattr(rule, "FREE", 64 << 20)


def picture():
    buffer = io.BytesIO()
    Image.new("L", (2, 2), 9).save(buffer, "PNG")
    return buffer.getvalue()


def npy(shape, descr="<f4", data=b"", version=b"\1\0"):
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    head = head.ljust(-(-(len(head) + 11) // 64) * 64 + 53) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + data


def packed(path, members, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return path


def declaring(path, size):
    """The same zip, whose directory says that every member unpacks to `size` bytes."""
    raw = bytearray(path.read_bytes())
    place = 0
    while (place := raw.find(b"PK\1\2", place)) >= 0:
        raw[place + 24 : place + 28] = struct.pack("<I", size)
        place += 4
    path.write_bytes(raw)
    return path


LABELS = npy((2,), "<i8", struct.pack("<2q", 0, 1))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (npy((10**12,)), r"declares \(1000000000000,\) values.*holds 0"),
        (npy((10**12,), "|u1"), "declares"),
        (npy((2**40, 2**40)), "declares"),  # overflows 64 bits to 0
        (npy((2, 3), data=bytes(20)), "declares"),
        (npy((2, 3), data=bytes(28)), "declares"),
        (npy((10**12,), "|V0"), "declares"),
        (npy((2, 3), data=bytes(24), version=b"\3\0"), "version 1.0 or 2.0"),
        (npy((2, 3), data=bytes(24), version=b"\x09\x09"), "version 1.0 or 2.0"),
        (npy((-1, 3)), "declares|plain arrays"),
        (npy((2, 3)).replace(b"(2, 3)", b"(2; 3)"), "plain arrays"),
    ],
)
def test_an_array_holds_what_it_declares(tmp_path, inputs, said):
    path = packed(tmp_path / "a.npz", {"x.npy": inputs, "y.npy": LABELS})
    with pytest.raises(InputError, match=said):
        load_data(path)


def test_class_names_are_texts_one_by_one(tmp_path):
    good = {"x.npy": npy((2, 3), data=bytes(24)), "y.npy": LABELS}
    for names in (npy((10**12,), "<U0"), npy((10**9,), "<U100"), npy((), "<U3", "cat".encode("utf-32-le"))):
        path = packed(tmp_path / "a.npz", {**good, "class_names.npy": names})
        with pytest.raises(InputError, match=r"declares|one text per class"):
            load_data(path)
    assert len(load_data(packed(tmp_path / "b.npz", good))) == 2


def test_a_zip_is_refused_by_what_its_directory_declares(tmp_path):
    images = {f"set/{label}/{row}.png": picture() for label in "ab" for row in range(3)}
    pictures = declaring(packed(tmp_path / "p.zip", images), 0xFFFFFF00)
    arrays = declaring(packed(tmp_path / "a.npz", {"x.npy": npy((2, 3), data=bytes(24)), "y.npy": LABELS}), 0x7FFFFFFF)
    for path in (pictures, arrays):
        with pytest.raises(InputError, match=r"would unpack to .* refused unread"):
            load_data(path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pt")
    weights = declaring(tmp_path / "w.pt", 0xF0000000)
    for ask in (lambda: read_weights(weights), lambda: load_model(f"fc:{weights}"), lambda: load_model(weights)):
        with pytest.raises(InputError, match=r"would unpack to .* refused unread"):
            ask()
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.rand(4, 3),))
    torch.export.save(program, tmp_path / "p.pt2")
    torch.jit.trace(torch.nn.Linear(3, 2), torch.rand(4, 3)).save(tmp_path / "s.pt")
    for path in (tmp_path / "p.pt2", tmp_path / "s.pt"):
        with pytest.raises(InputError, match=r"would unpack to .* refused unread"):
            load_model(declaring(path, 0xF0000000))


@pytest.mark.usefixtures("small")
def test_real_zeros_in_a_zip_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            file.write(npy((2, 48 << 18)))
            for _ in range(96):
                file.write(bytes(1 << 20))
        archive.writestr("y.npy", LABELS)
    with pytest.raises(InputError, match=r"would unpack to 0\.1 GiB"):
        load_data(path)


def test_a_member_twice_is_refused(tmp_path):
    for name in ("a.zip", "a.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("set/cat/0.png", picture())
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("set/cat/0.png", picture())
        with pytest.raises(InputError, match="twice"):
            load_data(tmp_path / name)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            member(archive, "set/cat/0.png", picture())
    with pytest.raises(InputError, match="twice"):
        load_data(tmp_path / "a.tar")


def member(archive, name, raw=b"", **facts):
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    for key, value in facts.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(raw))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_tar_is_refused_by_what_its_headers_declare(tmp_path, ending):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member(archive, "set/cat/0.png", picture())
        info = tarfile.TarInfo("set/cat/1.png")
        info.size = 10**13
        plain.write(b"")
        archive.fileobj.write(info.tobuf())
        archive.offset += 512
    write = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}[ending]
    path = tmp_path / f"a{ending}"
    path.write_bytes(write(plain.getvalue()))
    with pytest.raises(InputError, match=r"would unpack to 9,313\.2 GiB"):
        load_data(path)
    path.rename(tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(InputError, match=r"would unpack to 9,313\.2 GiB"):
        load_data("cifar10", data_dir=tmp_path)


@pytest.mark.usefixtures("small")
def test_a_tar_of_zeros_is_refused_while_it_is_unpacked(tmp_path, zeros):
    """A long name of 96 MiB: tarfile would read it whole, before any member is seen."""
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = 96 << 20, tarfile.GNUTYPE_LONGNAME
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + zeros.read_bytes())
    with pytest.raises(InputError, match="would unpack to"):
        load_data(path)


def test_a_sparse_member_counts_in_full(tmp_path):
    """512 bytes of header that stand for 10 TB of holes."""
    info = tarfile.TarInfo("set/cat/0.png")
    info.type = tarfile.GNUTYPE_SPARSE
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    raw[483:495] = b"\x80" + (10**13).to_bytes(11, "big")  # real size
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(raw) + bytes(10240))
    with pytest.raises(InputError, match="would unpack to"):
        load_data(tmp_path / "a.tar")


def test_a_plain_file_takes_the_memory_that_it_is_large(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1 << 22))
    tracemalloc.start()
    with unpacked(tmp_path / "a") as stream:
        assert len(stream.read()) == 1 << 22
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 26


def test_only_regular_files_inside_the_archive_are_pictures(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member(archive, "set/cat/0.png", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png"))
        member(archive, "set/cat/1.png", type=tarfile.LNKTYPE, linkname="set/cat/9.png")
        member(archive, "set/cat/2.png", type=tarfile.CHRTYPE)
        member(archive, "set/cat/3.png", type=tarfile.FIFOTYPE)
        member(archive, "set/cat/9.png", picture())
        member(archive, "set/dog/0.png", picture())
    data = load_data(tmp_path / "a.tar")
    assert len(data) == 2
    assert data.class_names == ("cat", "dog")
    for name in ("../../outside/cat/0.png", "/etc/cat/0.png"):
        with tarfile.open(tmp_path / "b.tar", "w") as archive:
            member(archive, name, picture())
        packed(tmp_path / "b.zip", {name: picture()})
        for ending in ("tar", "zip"):
            with pytest.raises(InputError, match="leads out of the archive"):
                load_data(tmp_path / f"b.{ending}")


def test_a_link_before_its_namesake_is_passed_over(tmp_path):
    other = io.BytesIO()
    Image.new("L", (2, 2), 200).save(other, "PNG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member(archive, "set/dog/0.png", other.getvalue())
        member(archive, "set/cat/0.png", type=tarfile.LNKTYPE, linkname="set/dog/0.png")
        member(archive, "set/cat/0.png", picture())
    data = load_data(tmp_path / "a.tar")
    assert data._stored[:, 0, 0, 0].tolist() == [9, 200]


def test_an_encrypted_zip_is_refused(tmp_path):
    path = packed(tmp_path / "a.zip", {"set/cat/0.png": picture()})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.find(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="encrypted"):
        load_data(path)


def idx(sizes, data=b""):
    return b"\0\0\x08" + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + data


@pytest.mark.parametrize("write", [bytes, gzip.compress])
def test_idx_is_refused_by_its_header(tmp_path, write):
    for sizes in ((2**32 - 1, 2**32 - 1), (2**31, 2**31, 4), (10_000, 10_000, 10_000)):
        (tmp_path / "f").write_bytes(write(idx(sizes)))
        with pytest.raises(InputError, match="would unpack to"):
            read_idx(tmp_path / "f")
    (tmp_path / "f").write_bytes(write(idx((255,) * 3, b"short")))
    with pytest.raises(InputError, match="promises 16581391 bytes; got 21"):
        read_idx(tmp_path / "f")


def test_idx_unpacks_no_more_than_it_declares(tmp_path, zeros):
    (tmp_path / "f").write_bytes(gzip.compress(idx((4,), b"abcd")) + zeros.read_bytes())
    with pytest.raises(InputError, match="promises 12 bytes; got more"):
        read_idx(tmp_path / "f")
    with pytest.raises(InputError, match="idx file of unsigned bytes"):
        read_idx(zeros)


@pytest.mark.usefixtures("small")
def test_a_stream_stops_at_its_bound(zeros):
    with unpacked(zeros) as file:
        assert file.read(10) == bytes(10)
        with pytest.raises(InputError, match="would unpack"):
            file.read(rule.FREE)
        with pytest.raises(InputError, match="would unpack"):
            file.seek(2 * rule.FREE)
    with unpacked(zeros) as file, pytest.raises(InputError, match="would unpack"):
        file.read()
    assert allowed(zeros.stat().st_size) == rule.FREE
    assert allowed(10**12) >= 10**12, "an archive of any size may be read as it is"


def test_pictures_that_are_all_one_colour_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(rule, "FREE", 10_000)
    monkeypatch.setattr(rule, "FACTOR", 20)
    for row in range(4):
        (tmp_path / "set" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 400), 7).save(tmp_path / "set" / "cat" / f"{row}.png")
    with pytest.raises(InputError, match="would unpack to"):
        load_data(tmp_path / "set")
    assert load_data(tmp_path / "set", resize=4).shape == (3, 4, 4)


def test_one_stored_value_does_not_become_a_trillion(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(10**12)}, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"would unpack to 3,725\.3 GiB"):
        read_weights(tmp_path / "w.pt")


class Code:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", ["m.pkl", "m.pt", "m.joblib", "m.bin", "m.pt2", "m.npz", "m.safetensors"])
def test_pickles_are_refused_by_content_whatever_they_are_called(tmp_path, name, protocol):
    for raw in (pickle.dumps(Code(), protocol), gzip.compress(pickle.dumps(Code(), protocol))):
        (tmp_path / name).write_bytes(raw)
        for spec in (tmp_path / name, f"fc:{tmp_path / name}"):
            with pytest.raises(InputError):
                load_model(spec)
        with pytest.raises(InputError):
            load_data(tmp_path / name)
    packed(tmp_path / name, {"archive/data.pkl": pickle.dumps(Code(), protocol), "archive/version": b"3\n"})
    with pytest.raises(InputError):
        load_model(f"fc:{tmp_path / name}")
    packed(tmp_path / "a.npz", {"x.npy": pickle.dumps(Code(), protocol), "y.npy": LABELS})
    with pytest.raises(InputError):
        load_data(tmp_path / "a.npz")


def test_safetensors_that_declare_too_much_are_refused(tmp_path):
    for end in (10**12, 2**63 - 1):
        head = json.dumps({"w": {"dtype": "F32", "shape": [end // 4], "data_offsets": [0, end]}}).encode()
        (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
        with pytest.raises(InputError, match="truncated"):
            read_weights(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{")
    with pytest.raises(InputError, match="truncated"):
        read_weights(tmp_path / "w.safetensors")


def test_cifar_members_are_bounded(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for _ in range(2):
            held = {b"data": np.zeros((1, 3072), dtype=np.uint8), b"labels": [0]}
            member(archive, "cifar-10-batches-py/test_batch", pickle.dumps(held, protocol=2))
    with pytest.raises(InputError, match="test_batch twice"):
        read_cifar10({path.name: path}, DATA.find("cifar10"), "test")
