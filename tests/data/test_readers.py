"""Readers against files made here, byte by byte; damaged and hostile files are refused."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trustbound.data import load_data
from trustbound.data.readers.cifar import read_cifar10
from trustbound.data.readers.idx import read_idx
from trustbound.data.readers.table import read_table
from trustbound.data.registry import DATA
from trustbound.errors import InputError


def test_digits_are_the_real_ones_split_without_overlap_and_evenly():
    from sklearn.datasets import load_digits

    source = load_digits()
    train, test = load_data("digits", split="train"), load_data("digits")
    rows = torch.cat([train.indices, test.indices])
    assert sorted(rows.tolist()) == list(range(1797))
    assert torch.equal(test.inputs[:, 0], torch.tensor(source.images[test.indices]).float() / 16)
    assert test.labels.tolist() == source.target[test.indices].tolist()
    for label, count in enumerate(np.bincount(source.target)):
        assert abs(int((test.labels == label).sum()) - count / 4) < 1
    scaled = load_data("digits", box=(-1, 1))
    assert torch.equal(scaled.inputs, test.inputs * 2 - 1)


def _idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_reads_plain_and_compressed_alike(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    (tmp_path / "a").write_bytes(_idx(array))
    (tmp_path / "b").write_bytes(gzip.compress(_idx(array)))
    content = hashlib.md5(_idx(array)).hexdigest()
    for name in "ab":
        assert np.array_equal(read_idx(tmp_path / name, content), array)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"\0", "truncated or damaged"),
        (lambda raw: gzip.compress(raw)[:-9], "truncated or damaged"),
        (lambda raw: raw[:3], "idx file"),
        (lambda raw: raw[:6], "truncated"),
        (lambda raw: b"", "an empty file"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "unsigned bytes"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "MD5"),
    ],
)
def test_idx_damage_is_named(tmp_path, damage, said):
    raw = _idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    (tmp_path / "file").write_bytes(damage(raw))
    with pytest.raises(InputError, match=said):
        read_idx(tmp_path / "file", hashlib.md5(raw).hexdigest())


@pytest.mark.mnist
@pytest.mark.skipif(
    not (Path(os.environ.get("TRUSTBOUND_DATA", "/nowhere")) / "mnist").is_dir(),
    reason="needs the original MNIST files under $TRUSTBOUND_DATA",
)
def test_real_mnist_loads_verified():
    data = load_data("mnist", limit=500)
    assert data.shape == (1, 28, 28)
    assert data.name == "mnist/test"
    whole = load_data("mnist")
    assert len(whole) == 10_000
    assert whole.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]  # the well-known first digits
    assert float(whole.inputs.mean()) == pytest.approx(0.1325, abs=1e-3)


def _member(archive, name, raw):
    info = tarfile.TarInfo(name)
    info.size = len(raw)
    archive.addfile(info, io.BytesIO(raw))


def _python2_batch(pictures, labels):
    """A protocol-2 pickle as Python 2 wrote them: byte strings, and arrays under numpy's old module names."""

    def text(raw):
        return b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<I", len(raw)) + raw

    shape = b"".join(b"J" + struct.pack("<i", side) for side in pictures.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ"
    dtype += b"\xff\xff\xff\xffK\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + text(pictures.tobytes()) + b"tb"
    items = (
        b"("
        + text(b"data")
        + array
        + text(b"labels")
        + b"]("
        + bytes(byte for label in labels for byte in (ord("K"), label))
        + b"e"
    )
    return b"\x80\x02}" + items + b"u."


@pytest.mark.parametrize("writer", ["python2", "python3"])
def test_cifar10_archive_round_trips(tmp_path, writer):
    random = np.random.default_rng(1)
    held = {}
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
            pictures = random.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = random.integers(0, 10, 4).tolist()
            held[name] = pictures, labels
            raw = (
                _python2_batch(pictures, labels)
                if writer == "python2"
                else pickle.dumps({b"data": pictures, b"labels": labels}, protocol=2)
            )
            _member(archive, f"cifar-10-batches-py/{name}", raw)
    test = load_data("cifar10", data_dir=tmp_path)
    assert torch.equal(test._stored, torch.from_numpy(held["test_batch"][0].reshape(-1, 3, 32, 32)))
    assert test.labels.tolist() == held["test_batch"][1]
    assert test.class_names[3] == "cat"
    train = load_data("cifar10", data_dir=tmp_path, split="train")
    assert len(train) == 20
    assert train.labels.tolist() == [label for i in range(1, 6) for label in held[f"data_batch_{i}"][1]]


class _Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def _cifar_of(tmp_path, raw):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        _member(archive, "cifar-10-batches-py/test_batch", raw)
    return path


def test_cifar10_code_in_a_pickle_is_refused_and_never_runs(tmp_path):
    proof = tmp_path / "ran"
    path = _cifar_of(tmp_path, pickle.dumps({b"data": _Bomb(proof), b"labels": [0]}))
    with pytest.raises(InputError, match=r"mkdir.*refused, and nothing in it was run"):
        read_cifar10({path.name: path}, DATA.find("cifar10"), "test")
    assert not proof.exists()
    pickle.loads(pickle.dumps(_Bomb(proof)))
    assert proof.exists(), "the bomb must be a real one"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (pickle.dumps({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}), "values of type"),
        (pickle.dumps({b"data": np.zeros((2, 99), np.uint8), b"labels": [0, 1]}), "must hold `data`"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}), "must hold `data`"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}), "must hold `data`"),
        (pickle.dumps([1, 2]), "must hold `data`"),
        (pickle.dumps({b"data": 1})[:-3], "no readable pickle"),
    ],
)
def test_cifar10_wrong_members_are_named(tmp_path, raw, said):
    path = _cifar_of(tmp_path, raw)
    with pytest.raises(InputError, match=said):
        read_cifar10({path.name: path}, DATA.find("cifar10"), "test")


def test_cifar10_truncated_and_incomplete_archives(tmp_path):
    raw = np.random.default_rng(0).integers(0, 256, (9, 3072), dtype=np.uint8)
    path = _cifar_of(tmp_path, pickle.dumps({b"data": raw, b"labels": [0] * 9}))
    with pytest.raises(InputError, match="missing: data_batch_1"):
        read_cifar10({path.name: path}, DATA.find("cifar10"), "train")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="truncated"):
        read_cifar10({path.name: path}, DATA.find("cifar10"), "test")


def test_npz_reads_keys_splits_and_pictures(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=grey, labels=np.arange(6), class_names=list("abcdef"))
    data = load_data(tmp_path / "a.npz")
    assert data.shape == (1, 5, 4)
    assert data.class_names == tuple("abcdef")
    assert torch.equal(data._stored[:, 0], torch.from_numpy(grey))
    colour = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", x_test=colour, y_test=np.zeros((6, 1), int), x_train=grey, y_train=np.ones(6))
    data = load_data(tmp_path / "b.npz")
    assert data.name == "b/test"
    assert torch.equal(data._stored, torch.from_numpy(colour.transpose(0, 3, 1, 2).copy()))
    floats = np.random.default_rng(0).random((6, 5, 4, 3), dtype=np.float32)
    np.savez(tmp_path / "c.npz", x=floats, y=np.arange(6))
    assert load_data(tmp_path / "c.npz").shape == (5, 4, 3)


def test_npz_bad_files(tmp_path):
    np.savez(tmp_path / "keys.npz", features=np.zeros((2, 2)), y=np.zeros(2, int))
    proof = tmp_path / "ran"
    np.savez(tmp_path / "code.npz", x=np.array([_Bomb(proof)], dtype=object), y=np.zeros(1, int))
    np.savez(tmp_path / "cut.npz", x=np.zeros((50, 50)), y=np.zeros(50, int))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:600])
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    for name, said in [
        ("keys", "must hold one of inputs, x, images"),
        ("code", "plain arrays"),
        ("cut", "plain arrays"),
        ("text", "plain arrays"),
        ("single", "npz archive|plain arrays"),
    ]:
        with pytest.raises(InputError, match=said):
            load_data(tmp_path / f"{name}.npz")
    assert not proof.exists()


TABLE = "a,b,kind\n1,10,cat\n2,30,dog\n3,20,cat\n"


def test_table_reads_names_and_takes_its_box_from_the_data(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeff" + TABLE, encoding="utf-8")
    data = load_data(path, label_column="kind")
    assert data.inputs.tolist() == [[1, 10], [2, 30], [3, 20]]
    assert data.labels.tolist() == [0, 1, 0]
    assert data.class_names == ("cat", "dog")
    assert data.box.low.tolist() == [1, 10]
    assert data.box.high.tolist() == [3, 30]
    assert load_data(path, label_column="kind", limit=2).box == data.box, "the box is the whole file's"
    path.write_text("a;label\n0,5;1\n".replace(",", ".") + "0.25;0\n")
    assert load_data(path, box=(0, 1)).labels.tolist() == [1, 0]


def test_table_takes_ranges_from_json(tmp_path):
    path, ranges = tmp_path / "t.csv", tmp_path / "box.json"
    path.write_text(TABLE)
    ranges.write_text(json.dumps({"b": [0, 50], "a": [0, 5], "unused": [0, 1]}))
    data = load_data(path, label_column="kind", box=ranges)
    assert data.box.low.tolist() == [0, 0]
    assert data.box.high.tolist() == [5, 50]
    ranges.write_text(json.dumps({"a": [0, 5], "b": [0, 25]}))
    with pytest.raises(InputError, match=r"line 3, column 'b'.*\[0, 25\]; got 30"):
        load_data(path, label_column="kind", box=ranges)
    with pytest.raises(InputError, match="missing: b"):
        read_table(path, label_column="kind", box={"a": [0, 5]})
    with pytest.raises(InputError, match="pair"):
        read_table(path, label_column="kind", box={"a": [0, 5], "b": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TABLE.replace("30", "many"), r"line 3, column 'b'.*got 'many'"),
        (TABLE.replace("30", ""), r"line 3, column 'b'.*got ''"),
        (TABLE.replace("30", "nan"), "finite number"),
        (TABLE.replace("2,30,dog", "2,30"), "line 3: 3 cells are needed; got 2"),
        (TABLE.replace("dog", ""), "line 3: the label is empty"),
        (TABLE.replace("20", "10").replace("30", "10"), "constant: b"),
        (TABLE.replace("b,", "a,"), "each column once"),
        (TABLE.replace("kind", "sort"), "no column 'kind'"),
        ("a,b,kind\n", "1 row"),
        ("", "header"),
    ],
)
def test_table_names_the_bad_cell(tmp_path, text, said):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_data(path, label_column="kind")


def test_table_without_a_known_label_column_lists_them(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    with pytest.raises(InputError, match="Columns: a, b, kind"):
        load_data(tmp_path / "t.csv")


def test_unknown_specs_and_options_that_do_not_apply(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'mnist'"):
        load_data("mnits")
    with pytest.raises(InputError, match="splits train, test; got 'val'"):
        load_data("digits", split="val")
    with pytest.raises(InputError, match="resize cannot be used with 'digits'"):
        load_data("digits", resize=4)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(InputError, match="must be a folder"):
        load_data(tmp_path / "x.bin")
    with pytest.raises(InputError, match="`data_dir` must be a folder"):
        load_data("mnist", data_dir=tmp_path / "nowhere")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(InputError, match="holds no pictures"):
        load_data(tmp_path / "empty.zip")
    Image.new("L", (2, 2)).save(tmp_path / "lonely.png")


def test_a_part_of_a_set_without_parts_is_refused(tmp_path):
    """Reading all of it for `train` and for `test` would train and test on the same examples in silence."""
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(3))
    (tmp_path / "t.csv").write_text("a,label\n0,0\n1,1\n")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "set" / "cat" / "0.png")
    for source in ("a.npz", "t.csv", "set"):
        assert len(load_data(tmp_path / source)) > 0
        for split in ("train", "test", "val"):
            with pytest.raises(InputError, match=f"has no parts; got split='{split}'"):
                load_data(tmp_path / source, split=split)
    np.savez(tmp_path / "b.npz", x_train=np.ones((4, 2)), y_train=np.arange(4), x=np.zeros((3, 2)), y=np.arange(3))
    assert len(load_data(tmp_path / "b.npz", split="train")) == 4
    np.savez(tmp_path / "c.npz", x_test=np.ones((4, 2)), y=np.arange(4))
    with pytest.raises(InputError, match="only one of them is split"):
        load_data(tmp_path / "c.npz")


def test_options_without_use_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(3))
    for options, said in [
        ({"data_dir": tmp_path}, "data_dir cannot be used"),
        ({"interpolation": "nearest"}, "interpolation cannot be used"),
        ({"label_column": "y"}, "label_column cannot be used"),
    ]:
        for source in (tmp_path / "a.npz", "digits"):
            with pytest.raises(InputError, match=said):
                load_data(source, **options)
    (tmp_path / "set" / "cat").mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "set" / "cat" / "0.png")
    with pytest.raises(InputError, match="without resize"):
        load_data(tmp_path / "set", interpolation="nearest")
