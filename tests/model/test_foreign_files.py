"""What is in a file is told from its content; each kind gets one sentence, and nothing of it is run."""

import bz2
import gzip
import json
import os
import pickle
import struct
import sys
import textwrap

import joblib
import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from trustbound.errors import InputError
from trustbound.model import load_model
from trustbound.model.files.recognising import pickled_classes, recognise
from trustbound.model.files.registry import FILES

RAN = "trustbound_a_foreign_file_ran"


class Bomb:
    """Whatever unpickles it has run it."""

    def __reduce__(self):
        return os.putenv, (RAN, "1")


def protobuf(number, value):
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def zipped(path, **members):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)


def onnx_by_its_library(path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph), path)


def skops(path):
    io = pytest.importorskip("skops.io")
    io.dump(LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True)), path)


def lightgbm(path):
    pytest.importorskip("lightgbm")
    from lightgbm import LGBMClassifier

    LGBMClassifier(n_estimators=2, verbose=-1, n_jobs=1).fit(*load_iris(return_X_y=True)).booster_.save_model(path)


def xgboost(path):
    """As XGBoost 3 writes them."""
    learner = {"attributes": {}, "feature_names": [], "gradient_booster": {"name": "gbtree"}}
    path.write_text(json.dumps({"learner": learner, "version": [3, 2, 0]}))


def sharded(path):
    path.mkdir()
    (path / ".metadata").write_bytes(b"\x80\x04.")
    (path / "__0_0.distcp").write_bytes(b"PK")


def core_ml(path):
    (path / "Data").mkdir(parents=True)
    (path / "Manifest.json").touch()


def folder(**files):
    def make(path):
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("__", ".")).write_bytes(content)

    return make


def half(make):
    def cut(path):
        make(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2])

    return cut


def bytes_of(raw):
    return lambda path: path.write_bytes(raw)


def weights(path):
    torch.save(nn.Linear(3, 2).state_dict(), path)


def lightning(path):
    torch.save({"epoch": 1, "pytorch-lightning_version": "2.5.0", "state_dict": nn.Linear(3, 2).state_dict()}, path)


def safetensors(path):
    from safetensors.torch import save_file

    save_file(nn.Linear(3, 2).state_dict(), path)


def forest(dump):
    made = RandomForestClassifier(3, random_state=0).fit(*load_iris(return_X_y=True))
    return lambda path: dump(made, path)


def as_pickle(held, path):
    path.write_bytes(pickle.dumps(held))


#: What is made, how the file is called (never how it is told), which kind it is, and a part of its sentence.
FOREIGN = [
    (
        "onnx by hand",
        bytes_of(protobuf(1, 8) + protobuf(2, b"pytorch") + protobuf(7, b"\x12\x01g") + protobuf(8, b"\x10\x0d")),
        "net.bin",
        "onnx",
        "cannot be read as ONNX (no nodes)",
    ),
    ("keras h5", bytes_of(b"\x89HDF\r\n\x1a\n" + bytes(100)), "net.h5", "hdf5", "Keras"),
    ("hdf5 after a block", bytes_of(bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(9)), "a.mat", "hdf5", "HDF5"),
    (
        "keras zip",
        lambda path: zipped(path, config__json="{}", metadata__json="{}", model__weights__h5="x"),
        "net.pt",
        "keras",
        "keras.saving.load_model",
    ),
    ("sklearn pickle", forest(as_pickle), "model.pth", "pickle", "RandomForestClassifier"),
    ("sklearn joblib", forest(joblib.dump), "model.joblib", "pickle", "skops.io.dump"),
    (
        "joblib compressed",
        forest(lambda made, path: joblib.dump(made, path, compress=3)),
        "m.safetensors",
        "joblib",
        "RandomForestClassifier",
    ),
    (
        "joblib lzma",
        forest(lambda made, path: joblib.dump(made, path, compress=("xz", 3))),
        "m.bin",
        "joblib",
        "--trust-pickle",
    ),
    ("pickle with code", lambda path: as_pickle(Bomb(), path), "model.pkl", "pickle", "putenv"),
    ("catboost", bytes_of(b"CBM1" + bytes(40)), "model.cbm", "catboost", "a CatBoost model"),
    ("xgboost json", xgboost, "model.json", "xgboost", "is "),
    (
        "xgboost ubj",
        bytes_of(b"{L" + struct.pack(">q", 7) + b"learner{" + bytes(30)),
        "model.ubj",
        "xgboost",
        "is ",
    ),
    ("xgboost old", bytes_of(b"binf" + bytes(40)), "model.model", "xgboost-binary", "given up"),
    ("flax", bytes_of(b"\x81\xa6params\x81\xa7Dense_0\x80"), "state.msgpack", "flax", "Flax"),
    ("orbax", folder(_METADATA=b"{}", manifest__ocdbt=b"x"), "checkpoint", "orbax", "Orbax"),
    ("saved model", folder(saved_model__pb=b"\x08\x01"), "saved", "saved-model", "tf.saved_model.load"),
    (
        "tensorflow checkpoint",
        folder(model__index=bytes(9) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"),
        "ckpt",
        "tensorflow-checkpoint",
        "a TensorFlow checkpoint",
    ),
    ("tflite", bytes_of(struct.pack("<I", 28) + b"TFL3" + bytes(40)), "net.tflite", "tflite", "TensorFlow Lite"),
    ("executorch", bytes_of(bytes(4) + b"ET12" + bytes(40)), "net.pte", "executorch", "ExecuTorch"),
    ("gguf", bytes_of(b"GGUF" + bytes(40)), "model.gguf", "gguf", "language model"),
    ("transformers", folder(config__json=b'{"model_type": "vit"}'), "vit", "transformers", "from_pretrained"),
    ("core ml", core_ml, "net.mlpackage", "core-ml", "coremltools"),
    ("sharded", sharded, "sharded", "torch-sharded", "dcp_to_torch"),
    ("openvino", bytes_of(b'<?xml version="1.0"?>\n<net name="a">'), "net.xml", "openvino", "OpenVINO"),
    ("pmml", bytes_of(b'<?xml version="1.0"?>\n<PMML version="4.4">'), "net.xml", "pmml", "PMML"),
    ("numpy", lambda path: np.save(path, np.zeros(3)), "w.npy", "numpy", "no model"),
    ("numpy zip", lambda path: np.savez(path, a=np.zeros(3)), "w.npz", "numpy", "no model"),
    ("web page", bytes_of(b"\n<!DOCTYPE html>\n<html>Sign in</html>"), "model.onnx", "html", "download that failed"),
    ("web page as weights", bytes_of(b"<html>404</html>"), "model.safetensors", "html", "a web page"),
    (
        "git lfs",
        bytes_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.pt",
        "git-lfs",
        "git lfs pull",
    ),
    ("empty", bytes_of(b""), "model.pt", "empty", "is empty"),
    ("zeros", bytes_of(bytes(4096)), "model.pt", "empty", "is empty"),
    ("folder of what not", folder(readme=b"x"), "model", "folder", "name the file of the model"),
    ("empty folder", lambda path: path.mkdir(), "model", "empty", "is empty"),
    ("half a checkpoint", half(weights), "model.pt", "zip-cut-short", "truncated"),
    ("half a skops", half(skops), "model.skops", "zip-cut-short", "truncated"),
    ("text", bytes_of(b"epoch 1: loss 0.3\n"), "log.pt", "text", "a text file"),
    ("json", bytes_of(b'{"layers": []}'), "net.json", "json", "no model"),
    ("gzip", bytes_of(gzip.compress(b"abc" * 99)), "net.gz", "archive", "unpack it"),
    ("bzip", bytes_of(bz2.compress(b"abc" * 99)), "net.bz2", "archive", "unpack it"),
    ("zip", lambda path: zipped(path, readme="x"), "net.zip", "zip", "unpack it"),
    ("noise", bytes_of(bytes(range(255, 128, -1)) * 9), "net.pt", "unknown", "copy or save it again"),
    ("weights alone", weights, "net.pt", "torch-checkpoint", "holds weights alone"),
    ("lightning", lightning, "net.ckpt", "torch-checkpoint", "of Lightning"),
    ("safetensors", safetensors, "net.bin", "safetensors", "without the name of their architecture"),
]


@pytest.mark.parametrize(("make", "name", "kind", "words"), [pytest.param(*row[1:], id=row[0]) for row in FOREIGN])
def test_every_kind_gets_its_sentence(tmp_path, make, name, kind, words):
    path = tmp_path / name
    make(path)
    assert recognise(path) == kind
    os.environ.pop(RAN, None)
    before = set(sys.modules)
    with pytest.raises(InputError) as caught:
        load_model(path)
    said = str(caught.value)
    assert words in said
    assert said.startswith(str(path))
    assert "\n" not in said
    assert ("--trust-pickle" in said) == (kind in ("pickle", "joblib")), "trust helps pickles alone"
    assert os.getenv(RAN) is None
    new = {one.partition(".")[0] for one in set(sys.modules) - before}
    assert not new & {"tensorflow", "jax", "catboost"}


def test_there_is_a_file_for_every_kind_but_programs_and_what_loads():
    made = {row[3] for row in FOREIGN}
    elsewhere = {"torchscript", "torch-export", "skops", "lightgbm"}
    assert set(FILES.names) - made <= elsewhere
    assert len(made) >= 14


@pytest.mark.parametrize("make", [forest(as_pickle), weights, safetensors, half(weights), onnx_by_its_library])
def test_as_weights_of_an_architecture_they_are_named_too(tmp_path, make):
    make(tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"w.pt (is|does not fit)"):
        load_model(f"fc:{tmp_path / 'w.pt'}", arguments={"widths": [3], "input_shape": [7], "classes": 2})


def test_a_pickles_names_are_read_and_not_run(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Bomb()))
    assert pickled_classes(tmp_path / "a.pkl") == ["posix.putenv"]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        recognise(tmp_path / "nothing")


ROWS = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)) * 5


@pytest.mark.parametrize("form", ["skops", "pickle", "joblib"])
def test_forests_are_loaded_from_each_of_their_files(tmp_path, form):
    make = HistGradientBoostingClassifier(max_iter=3) if form == "skops" else RandomForestClassifier(5, random_state=0)
    made = make.fit(*load_iris(return_X_y=True))
    path = tmp_path / "model.any"
    if form == "skops":
        pytest.importorskip("skops.io").dump(made, path)
    else:
        (as_pickle if form == "pickle" else joblib.dump)(made, path)
    model = load_model(path, trust_pickle=form != "skops")
    assert np.allclose(model(ROWS).exp().numpy(), made.predict_proba(ROWS.numpy()))
    assert model.shows == "scores"
    assert model.origin.executed == (() if form == "skops" else ("the pickle, which was trusted",))
    assert load_model(path, trust_pickle=form != "skops", shows="decisions").shows == "decisions"


def test_skops_refuses_types_that_it_does_not_know(tmp_path):
    io = pytest.importorskip("skops.io")
    from sklearn.preprocessing import FunctionTransformer

    io.dump(FunctionTransformer(os.path.join), tmp_path / "model.skops")
    with pytest.raises(InputError, match=r"does not vouch for \(.*join"):
        load_model(tmp_path / "model.skops")


def broken_trees():
    """Forests and boosted trees, each with one number changed that compiled code would follow."""
    data = load_iris(return_X_y=True)
    for name, value in [("left_child", 0), ("right_child", 10**6), ("feature", 4), ("left_child", -7)]:
        made = RandomForestClassifier(2, random_state=0).fit(*data)
        tree = made.estimators_[1].tree_
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"][name][0] = value
        tree.__setstate__(state)
        yield f"forest {name} {value}", made
    for name, value in [("left", 0), ("right", 10**6), ("feature_idx", 4)]:
        made = HistGradientBoostingClassifier(max_iter=2).fit(*data)
        made._predictors[1][2].nodes[name][0] = value
        yield f"boosting {name} {value}", made


@pytest.mark.parametrize("made", [pytest.param(made, id=name) for name, made in broken_trees()])
def test_trees_that_lead_out_of_their_memory_are_refused(tmp_path, made):
    pytest.importorskip("skops.io").dump(made, tmp_path / "model.skops")
    with pytest.raises(InputError, match="is damaged: a node"):
        load_model(tmp_path / "model.skops")


@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_is_read_from_its_text(tmp_path, classes):
    pytest.importorskip("lightgbm")
    from lightgbm import LGBMClassifier

    data = (load_breast_cancer if classes == 2 else load_iris)(return_X_y=True)
    made = LGBMClassifier(n_estimators=4, verbose=-1, n_jobs=1).fit(*data)
    made.booster_.save_model(tmp_path / "model.txt")
    model = load_model(tmp_path / "model.txt")
    rows = torch.from_numpy(data[0][::20]).float()
    assert np.allclose(model(rows).softmax(1).numpy(), made.predict_proba(rows.numpy()), atol=1e-12)
    assert model.sha256 == model.origin.files[0][1]
    with pytest.raises(InputError, match="takes 4 features" if classes == 3 else "takes 30 features"):
        model(rows[:, :2])


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_is_read_from_json_and_ubjson(tmp_path, classes, suffix):
    library = pytest.importorskip("xgboost")
    data = (load_breast_cancer if classes == 2 else load_iris)(return_X_y=True)
    made = library.XGBClassifier(n_estimators=4, n_jobs=1).fit(*data)
    made.save_model(tmp_path / f"model.{suffix}")
    model = load_model(tmp_path / f"model.{suffix}")
    rows = torch.from_numpy(data[0][::20]).float()
    assert np.allclose(model(rows).softmax(1).numpy(), made.predict_proba(rows.numpy()), atol=1e-6)


def test_a_regressor_needs_its_task(tmp_path):
    joblib.dump(Ridge().fit(*load_iris(return_X_y=True)), tmp_path / "model.joblib")
    with pytest.raises(InputError, match="needs task="):
        load_model(tmp_path / "model.joblib", trust_pickle=True)
    model = load_model(tmp_path / "model.joblib", trust_pickle=True, task="regression:tolerance=1")
    assert model(ROWS).shape[0] == 5


NETWORK = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
    def forward(self, inputs):
        return self.layer(inputs)
"""


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickled_module_finds_its_source_beside_the_file(tmp_path, form):
    (tmp_path / "own_nets_of_a_test.py").write_text(textwrap.dedent(NETWORK))
    sys.path.insert(0, str(tmp_path))
    try:
        made = __import__("own_nets_of_a_test").Net().eval()
        (torch.save if form == "torch" else as_pickle)(made, tmp_path / "net.pt")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["own_nets_of_a_test"]
    before = list(sys.path)
    with pytest.raises(InputError, match="--trust-pickle"):
        load_model(tmp_path / "net.pt")
    assert "own_nets_of_a_test" not in sys.modules
    back = load_model(tmp_path / "net.pt", trust_pickle=True)
    assert torch.equal(back(ROWS), made(ROWS))
    assert sys.path == before
    del sys.modules["own_nets_of_a_test"]
    (tmp_path / "own_nets_of_a_test.py").unlink()
    with pytest.raises(InputError, match=r"Put the .py file that defines it beside it"):
        load_model(tmp_path / "net.pt", trust_pickle=True)
