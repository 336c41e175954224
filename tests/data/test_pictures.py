"""Folders and archives of pictures: the same pixels from each kind of container, and honest refusals."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trustbound.data.readers.pictures as pictures_module
from trustbound.data import load_data
from trustbound.errors import InputError

CLASSES = ("ant", "bee", "cat")


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def members():
    """prefix/split/class/n.png → pixels; the test split lacks the class `ant`."""
    random = np.random.default_rng(0)
    return {
        f"toy/{split}/{name}/{number}.png": random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        for split in ("train", "test")
        for name in CLASSES
        for number in range({"ant": 0, "bee": 9, "cat": 3}[name] if split == "test" else 2)
    }


@pytest.fixture(scope="module")
def sources(members, tmp_path_factory):
    base = tmp_path_factory.mktemp("pictures")
    shuffled = list(members)
    np.random.default_rng(1).shuffle(shuffled)
    for name, pixels in members.items():
        (base / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "folder" / name).write_bytes(_png(pixels))
    (base / "folder" / "toy/test/cat/.hidden.png").write_bytes(b"not a picture")
    (base / "folder" / "toy/test/cat/notes.txt").write_text("ignored")
    for ending, mode in ((".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar", "w")):
        with tarfile.open(base / f"folder{ending}", mode) as archive:
            for name in shuffled:
                raw = _png(members[name])
                info = tarfile.TarInfo("./" + name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    with zipfile.ZipFile(base / "folder.zip", "w") as packed:
        packed.writestr("__MACOSX/toy/test/cat/0.png", b"junk")
        for name in shuffled:
            packed.writestr(name, _png(members[name]))
    return {ending: base / f"folder{ending}" for ending in ("", ".tar.gz", ".tgz", ".tar", ".zip")}


@pytest.mark.parametrize("ending", ["", ".tar.gz", ".tgz", ".tar", ".zip"])
def test_every_container_gives_the_same_pixels_in_sorted_order(sources, members, ending):
    data = load_data(sources[ending])
    names = sorted(name for name in members if "/test/" in name)
    assert torch.equal(data._stored, torch.from_numpy(np.stack([members[n].transpose(2, 0, 1) for n in names])))
    assert data.class_names == CLASSES, "a class that a split lacks must not renumber the others"
    assert data.labels.tolist() == [CLASSES.index(name.split("/")[2]) for name in names]
    assert data.name == "folder/test"


@pytest.mark.parametrize("ending", ["", ".tar.gz", ".zip"])
def test_limit_decodes_only_what_it_draws_and_equals_drawing_afterwards(sources, ending, monkeypatch):
    whole = load_data(sources[ending]).stratified(4, seed=5)
    count, decode = [], pictures_module._decode
    monkeypatch.setattr(pictures_module, "_decode", lambda *a: (count.append(1), decode(*a))[1])
    drawn = load_data(sources[ending], limit=4, seed=5)
    assert len(count) == 4
    assert drawn.sha256 == whole.sha256
    assert torch.equal(drawn.indices, whole.indices)
    assert drawn.labels.bincount().tolist() == [0, 3, 1]


def test_resize_and_crop_follow_the_usual_sizes(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    plain = load_data(tmp_path)
    assert plain.shape == (1, 6, 4)
    assert plain.name == tmp_path.name
    doubled = load_data(tmp_path, resize=8, interpolation="nearest")
    assert np.array_equal(doubled._stored[0, 0], pixels.repeat(2, 0).repeat(2, 1))
    assert load_data(tmp_path, resize=(3, 7)).shape == (1, 3, 7)
    cropped = load_data(tmp_path, crop=(2, 4))
    assert np.array_equal(cropped._stored[0, 0], pixels[2:4])
    assert load_data(tmp_path, resize=8, crop=8).shape == (1, 8, 8)
    halved = load_data(tmp_path, resize=2, interpolation="bilinear")
    assert halved.shape == (1, 3, 2)
    assert 50 < float(halved._stored.float().mean()) < 200
    for options, said in [
        ({"crop": 5}, "must fit into the picture"),
        ({"resize": 0}, "`resize`"),
        ({"resize": (1, 2, 3)}, "`resize`"),
        ({"crop": "5"}, "`crop`"),
        ({"interpolation": "cubic"}, "`interpolation`"),
    ]:
        with pytest.raises(InputError, match=said):
            load_data(tmp_path, **options)


def test_sizes_and_channels_must_agree(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4), 7).save(tmp_path / "a" / "0.png")
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "a" / "1.png")
    data = load_data(tmp_path)
    assert data.shape == (3, 4, 4), "one colour picture makes the set colour"
    assert data._stored[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]
    Image.new("L", (5, 4)).save(tmp_path / "a" / "2.png")
    with pytest.raises(InputError, match=r"a/0.png is 4×4 and a/2.png is 4×5.*resize and crop"):
        load_data(tmp_path)
    assert load_data(tmp_path, crop=4).shape == (3, 4, 4)


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_corrupt_pictures_are_named(tmp_path, container):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
    for number, raw in enumerate([buffer.getvalue()[:400], b"hello", b""]):
        source = tmp_path / f"{container}{number}"
        (source / "a").mkdir(parents=True)
        (source / "a" / "bad.jpg").write_bytes(raw)
        if container == "tar":
            with tarfile.open(source.with_suffix(".tar"), "w") as archive:
                archive.add(source / "a", "a")
            source = source.with_suffix(".tar")
        with pytest.raises(InputError, match=r"a/bad\.jpg cannot be decoded"):
            load_data(source)


def test_class_index_in_every_form(sources, tmp_path):
    forms = {
        "a.json": json.dumps({"ant": 7, "cat": 0, "bee": 2}),
        "b.txt": "ant 7\ncat,0\nbee 2\n",
        "c.json": json.dumps({"0": ["cat", "Felis"], "2": ["bee", "Apis"], "7": ["ant", "Formica"]}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        data = load_data(sources[""], class_index=tmp_path / name)
        assert sorted(set(data.labels.tolist())) == [0, 2]
        assert len(data.class_names) == 8
        assert data.class_names[2] == ("Apis" if name == "c.json" else "bee")
    (tmp_path / "list.json").write_text(json.dumps(["cat", "bee", "ant"]))
    assert load_data(sources[""], class_index=tmp_path / "list.json").class_names == ("cat", "bee", "ant")
    (tmp_path / "names.txt").write_text("cat\nbee\nant\n")
    assert load_data(sources[""], class_index=tmp_path / "names.txt").class_names == ("cat", "bee", "ant")
    for bad, said in [
        ({"ant": 0, "bee": 1}, "missing: cat"),
        ({"ant": 0, "bee": 1, "cat": 1}, "its own number"),
        ({"ant": 0, "bee": 1, "cat": -1}, "class numbers"),
        (tmp_path / "nowhere.json", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=said):
            load_data(sources[""], class_index=bad)


def test_layouts_that_mean_two_things_are_refused(sources, tmp_path):
    with pytest.raises(InputError, match=r"no split 'val'; it has test, train"):
        load_data(sources[".zip"], split="val")
    Image.new("L", (2, 2)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="named after its class"):
        load_data(tmp_path)
    (tmp_path / "0.png").unlink()
    for place in ("one/cat", "two/deep/dog"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / place / "0.png")
    with pytest.raises(InputError, match="side by side"):
        load_data(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        load_data(tmp_path / "empty")


def test_truncated_archives_are_refused(sources, tmp_path):
    for ending in (".tar.gz", ".zip"):
        raw = sources[ending].read_bytes()
        (tmp_path / f"cut{ending}").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(InputError, match="truncated"):
            load_data(tmp_path / f"cut{ending}")


_REAL = Path(os.environ.get("TRUSTBOUND_DATA", "/nowhere")) / "cifar10-jpeg" / "cifar10-jpeg.tar.gz"


@pytest.mark.skipif(not _REAL.is_file(), reason="needs cifar10-jpeg under $TRUSTBOUND_DATA")
def test_real_archive_of_sixty_thousand_draws_a_few():
    data = load_data(_REAL, limit=20)
    assert data.shape == (3, 32, 32)
    assert data.labels.bincount().tolist() == [2] * 10
    assert data.name == "cifar10-jpeg/test"
