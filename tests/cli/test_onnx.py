"""ONNX files on the command line: audited, attacked and certified like any model."""

import json

import onnx
import pytest
import torch
from onnx import helper, numpy_helper


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A file of one hidden layer over digits, for one input."""
    monkeypatch.chdir(tmp_path)
    weights = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)) / 8
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"]),
    ]
    kept = [
        numpy_helper.from_array(w.numpy(), name) for w, name in zip((weights[0], weights[1, :, :10]), "ab", strict=True)
    ]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 8, 8])
    told = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])
    onnx.save(helper.make_model(helper.make_graph(nodes, "digits", [given], [told], kept)), "network.onnx")
    return "network.onnx"


def test_a_file_is_audited_attacked_and_certified(network, trustbound):
    common = (network, "--data", "digits", "--limit", 40, "--threat", "linf:0.02", "--json")
    attacked = trustbound("attack", "pgd", *common)
    certified = trustbound("certify", "crown", *common)
    assert (attacked.code, certified.code) == (0, 0), attacked.err + certified.err
    done = trustbound("audit", *common, "--budget", "quick", "--curve", 0, "--run", "run")
    assert done.code in (0, 3), done.err
    told = json.loads(done.out)
    (bracket,) = told["brackets"]
    assert bracket["no_proof"] in (None, "")
    assert bracket["lower"] == json.loads(certified.out)["lower"]


def test_a_damaged_file_is_one_line(network, trustbound, tmp_path):
    (tmp_path / "broken.onnx").write_bytes((tmp_path / network).read_bytes()[:-1])
    assert (
        "broken.onnx is truncated, damaged"
        in trustbound("certify", "crown", "broken.onnx", "--data", "digits", "--threat", "linf:0.1").error
    )
