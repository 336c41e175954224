"""ONNX files as models: what torch exports comes back, files of one input take batches, others are refused by name."""

import copy
import gzip
import pickle
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import trustbound as tb
from trustbound.errors import InputError, MissingDependencyError, UnsupportedError
from trustbound.model.files.onnx_building import load_onnx
from trustbound.model.registry import ZOO
from trustbound.model.zoo.build import build

#: Small members of the zoo.
SMALL = {
    "fc": {"widths": [16, 16]},
    "cnn-small": {},
    "cnn-large": {"input_shape": [1, 8, 8]},
    "resnet18": {"input_shape": [3, 8, 8]},
    "wrn-28-10": {"input_shape": [3, 8, 8]},
    "vit-small": {"input_shape": [3, 8, 8], "depth": 2, "dim": 16},
}


def exported(module, inputs, path, batch="open"):
    """A file as torch writes it."""
    axes = {"x": {0: "batch"}} if batch == "open" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is called legacy, and traces
        torch.onnx.export(module.eval(), (inputs,), path, dynamo=False, dynamic_axes=axes, input_names=["x"])
    return path


def written(
    path, nodes, shape=(1, 4), constants=None, opset=20, given=("x",), outputs=("y",), kind=onnx.TensorProto.FLOAT
):
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    told = [helper.make_tensor_value_info(name, kind, list(shape)) for name in given]
    ends = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    graph = helper.make_graph(nodes, "network", told, ends, kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return exported(module, torch.rand(1, 1, 8, 8), tmp_path / "network.onnx", batch="one"), module


@pytest.mark.parametrize("name", ZOO.names)
def test_a_network_of_the_zoo_comes_back_as_it_was_exported(name, tmp_path):
    torch.manual_seed(0)
    module = build(name, **SMALL[name]).eval()
    shape = SMALL[name].get("input_shape") or ZOO.find(name).input_shape
    inputs = torch.rand(3, *shape)
    for batch in ("open", "one"):
        model = tb.load_model(exported(module, inputs[:1], tmp_path / f"{batch}.onnx", batch))
        assert not model.module.looped
        assert (model.input_shape, model.classes) == (tuple(shape), 10)
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), module(inputs), rtol=1e-5, atol=1e-5)


def test_sizes_that_the_file_computes_are_those_of_any_batch(tmp_path):
    class Reshaping(nn.Module):
        def forward(self, x):
            apart = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2])
            return apart.transpose(1, 2).reshape(x.size(0), -1)

    path = exported(Reshaping(), torch.rand(2, 4, 3), tmp_path / "a.onnx")
    assert {"Shape", "Gather"} <= {node.op_type for node in onnx.load(path).graph.node}
    inputs = torch.rand(5, 4, 3)
    assert torch.equal(tb.load_model(path).module(inputs), Reshaping()(inputs))


def test_what_mixes_the_examples_of_a_batch_is_asked_one_by_one(tmp_path):
    nodes = [helper.make_node("Softmax", ["x"], ["s"], axis=0), helper.make_node("Add", ["x", "s"], ["y"])]
    path = written(tmp_path / "a.onnx", nodes)
    network = load_onnx(path)
    inputs = torch.rand(3, 4)
    assert network.looped
    assert torch.equal(network(inputs), inputs + 1)  # softmax over one example's axis of one
    with pytest.raises(UnsupportedError, match="no proof"):
        tb.certify("crown", network, inputs, torch.zeros(3).long(), "linf:0.01", box=(0, 1))


def test_products_with_a_constant_on_either_side_are_proven(tmp_path):
    weight = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["w", "x"], ["h"]),
        helper.make_node("Pow", ["p", "one"], ["q"]),
        helper.make_node("Max", ["h", "q"], ["m"]),
        helper.make_node("Neg", ["h"], ["p"]),
        helper.make_node("Flatten", ["m"], ["y"]),
    ]
    nodes = [nodes[0], nodes[3], nodes[1], nodes[2], nodes[4]]
    path = written(tmp_path / "a.onnx", nodes, (1, 4, 1), {"w": weight, "one": np.float32([1.0])})
    inputs = torch.rand(3, 4, 1)
    network = load_onnx(path)
    values = (torch.from_numpy(weight) @ inputs).abs().flatten(1)
    torch.testing.assert_close(network(inputs), values)
    proof = tb.certify("crown", network, inputs, values.argmax(1), "linf:1e-4", box=(0, 1))
    assert bool(proof.certified.all())


def test_no_examples_give_no_answers(tmp_path, classifier):
    assert load_onnx(classifier[0])(torch.rand(0, 1, 8, 8)).shape == (0, 10)
    path = written(tmp_path / "a.onnx", [helper.make_node("Softmax", ["x"], ["y"], axis=0)])
    assert load_onnx(path)(torch.rand(0, 4)).shape == (0, 4)


def test_a_file_is_copied_pickled_and_doubled_like_any_module(classifier):
    path, module = classifier
    inputs = torch.rand(4, 1, 8, 8)
    model = tb.load_model(path)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(inputs), model(inputs))
    torch.testing.assert_close(model.in_float64()(inputs.double()), module.double()(inputs.double()))
    assert model.origin.executed == ()
    assert [file for file, _ in model.origin.files] == [str(path)]


def test_a_file_is_proven_as_the_module_that_it_was_exported_from(classifier):
    path, module = classifier
    data = tb.load_data("digits", limit=24)
    own = tb.certify("crown", tb.wrap(module), data.inputs, data.labels, "linf:0.02")
    found = tb.certify("crown", tb.load_model(path), data.inputs, data.labels, "linf:0.02")
    torch.testing.assert_close(found.margin, own.margin)
    torch.testing.assert_close(found.slack, own.slack)


def test_gzip_and_weights_beside_the_file(classifier, tmp_path):
    path, module = classifier
    inputs = torch.rand(2, 1, 8, 8)
    packed = tmp_path / "network.onnx.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    torch.testing.assert_close(tb.load_model(packed)(inputs), module(inputs))
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(path), apart, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = tb.load_model(apart)
    torch.testing.assert_close(model(inputs), module(inputs))
    assert [file for file, _ in model.origin.files] == [str(apart), str(tmp_path / "weights.bin")]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin.*beside"):
        tb.load_model(apart)


def test_a_layer_without_a_proof_is_named_as_the_file_names_it(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Softsign(), nn.Linear(4, 3))
    path = exported(module, torch.rand(1, 4), tmp_path / "a.onnx")
    with pytest.raises(UnsupportedError, match=r"no proof: 1_Div \(div\)"):
        tb.certify("crown", tb.load_model(path), torch.rand(2, 4), torch.zeros(2).long(), "linf:0.1")


RELU = helper.make_node("Relu", ["x"], ["y"])
REFUSED = {
    "an operator": ([helper.make_node("LRN", ["x"], ["y"], size=3, name="odd")], {}, "node odd \\(LRN\\).*not read"),
    "a domain": (
        [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft", name="odd")],
        {},
        "com.microsoft.Gelu",
    ),
    "whole numbers": ([helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT64)], {}, "whole numbers"),
    "several inputs": ([RELU], {"given": ("x", "z")}, "one input.* x, z"),
    "an open size": ([RELU], {"shape": (1, "width")}, "only the batch may be open.*width"),
    "a fixed batch": ([RELU], {"shape": (4, 4)}, "batches of exactly 4"),
    "no shape": ([RELU], {"shape": ()}, "says no shape"),
    "an input of another kind": ([RELU], {"kind": onnx.TensorProto.INT32}, "floating point"),
    "an unknown value": ([helper.make_node("Add", ["x", "z"], ["y"])], {}, "'z'"),
    "a constant output": (
        [helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])],
        {},
        "does not depend on the input",
    ),
    "a branch": (
        [
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                then_branch=helper.make_graph([RELU], "a", [], []),
                else_branch=helper.make_graph([RELU], "b", [], []),
            )
        ],
        {"constants": {"c": np.array([True])}},
        "\\(If\\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(name, tmp_path):
    nodes, how, match = REFUSED[name]
    path = written(tmp_path / "a.onnx", nodes, **how)
    with pytest.raises((InputError, UnsupportedError), match=match):
        tb.load_model(path)


def test_damaged_files_are_refused(classifier, tmp_path):
    whole = classifier[0].read_bytes()
    for place in (10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "short.onnx"
        path.write_bytes(whole[:place])
        with pytest.raises(InputError, match="damaged"):
            tb.load_model(path)
        path.write_bytes(gzip.compress(whole)[: place // 2])
        with pytest.raises(InputError, match=r"cannot be read as ONNX|compressed"):
            tb.load_model(path)


def test_a_file_is_told_by_its_content(classifier, tmp_path):
    path, module = classifier
    inputs = torch.rand(2, 1, 8, 8)
    for name, content in (("net.pt", path.read_bytes()), ("net.bin", gzip.compress(path.read_bytes()))):
        (tmp_path / name).write_bytes(content)
        torch.testing.assert_close(tb.load_model(tmp_path / name)(inputs), module(inputs))


def test_a_missing_package_is_said_with_what_brings_it(classifier, monkeypatch):
    path, _ = classifier
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trustbound\[onnx\]'"):
        tb.load_model(path)
    with pytest.raises(InputError, match="neither arguments nor weights"):
        tb.load_model(path, arguments={"classes": 3})
