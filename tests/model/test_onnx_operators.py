"""Every operator of an ONNX file against onnxruntime, alone and in a batch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from trustbound.model.files.onnx_building import load_onnx
from trustbound.model.files.onnx_operators import OPERATORS

OPSET = 20


def written(path, nodes, shape, constants=None, opset=OPSET, outputs=("y",)):
    """An ONNX file of some nodes from `x` to `y`."""
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(shape))]
    told = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "network", given, told, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def answers(path, inputs):
    """What onnxruntime says of inputs, one by one in the shape of the file, as one flat row each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    rows = [session.run(None, {given.name: one.reshape(shape).numpy()})[0].reshape(-1) for one in inputs]
    return torch.from_numpy(np.stack(rows))


def numbers(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def i64(*values):
    return np.array(values, dtype=np.int64)


def node(kind, *reads, **attributes):
    return kind, reads, attributes


C = {"w": numbers(3, 4, 3, 2), "b": numbers(3, seed=1)}
PLANE = (1, 4, 7, 6)
POOL = {"kernel_shape": [3, 2]}
NORM = {"s": numbers(4, low=0.5), "t": numbers(4, seed=2), "m": numbers(4, seed=3), "v": numbers(4, seed=4, low=0.3)}
ROW = (1, 12)
LOOK = numbers(5, 12)

#: Name of the case: (operator, operands, attributes), the shape of x, constants, opset.
CASES = {
    "abs": (node("Abs"), ROW, {}),
    "add": (node("Add", "c"), PLANE, {"c": numbers(4, 1, 1)}),
    "add-both": (node("Add", "x"), PLANE, {}),
    "sub-from": (("Sub", ("c", "x"), {}), ROW, {"c": numbers(12)}),
    "mul": (node("Mul", "c"), ROW, {"c": numbers(1, 12)}),
    "mul-number": (node("Mul", "c"), ROW, {"c": np.float32(0.3)}),
    "mul-both": (node("Mul", "x"), ROW, {}),
    "div": (node("Div", "c"), ROW, {"c": numbers(12, low=0.5)}),
    "gemm": (node("Gemm", "w", "b"), ROW, {"w": numbers(12, 5), "b": numbers(5)}),
    "gemm-scaled": (
        node("Gemm", "w", "b", transB=1, alpha=0.5, beta=2.0),
        ROW,
        {"w": numbers(5, 12), "b": numbers(1, 5)},
    ),
    "gemm-number": (node("Gemm", "w", "b"), ROW, {"w": numbers(12, 5), "b": numbers(1)}),
    "matmul": (node("MatMul", "w"), ROW, {"w": numbers(12, 5)}),
    "matmul-deep": (node("MatMul", "w"), (1, 1, 3, 4), {"w": numbers(4, 5)}),
    "matmul-left": (("MatMul", ("w", "x"), {}), (1, 4, 3), {"w": numbers(5, 4)}),
    "conv": (node("Conv", "w", "b", strides=[2, 1], pads=[1, 1, 1, 1]), PLANE, C),
    "conv-uneven": (node("Conv", "w", "b", pads=[0, 1, 2, 0], dilations=[2, 1]), PLANE, C),
    "conv-same": (node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), PLANE, C),
    "conv-same-lower": (node("Conv", "w", auto_pad="SAME_LOWER"), PLANE, C),
    "conv-groups": (node("Conv", "w", group=2), PLANE, {"w": numbers(6, 2, 3, 3)}),
    "conv-line": (node("Conv", "w", strides=[2]), (1, 3, 9), {"w": numbers(5, 3, 4)}),
    "conv-transpose": (
        node("ConvTranspose", "w", "b", strides=[2, 3], pads=[1, 0, 1, 0], output_padding=[1, 2]),
        PLANE,
        {"w": numbers(4, 3, 3, 2), "b": numbers(3)},
    ),
    "conv-transpose-uneven": (
        node("ConvTranspose", "w", pads=[0, 1, 2, 0], group=2, strides=[2, 2]),
        PLANE,
        {"w": numbers(4, 3, 3, 3)},
    ),
    "conv-transpose-same": (
        node("ConvTranspose", "w", auto_pad="SAME_UPPER", strides=[2, 2]),
        PLANE,
        {"w": numbers(4, 3, 3, 3)},
    ),
    "conv-transpose-shape": (
        node("ConvTranspose", "w", strides=[2, 2], output_shape=[14, 12]),
        PLANE,
        {"w": numbers(4, 3, 3, 3)},
    ),
    "conv-transpose-shape-lower": (
        node("ConvTranspose", "w", auto_pad="SAME_LOWER", strides=[2, 2], output_shape=[14, 12]),
        PLANE,
        {"w": numbers(4, 3, 3, 3)},
    ),
    "batch-norm": (node("BatchNormalization", "s", "t", "m", "v", epsilon=1e-3), PLANE, NORM),
    "layer-norm": (node("LayerNormalization", "s", "t"), (1, 3, 4), NORM),
    "layer-norm-planes": (node("LayerNormalization", "s", axis=1), (1, 3, 4), {"s": numbers(3, 4)}),
    "instance-norm": (node("InstanceNormalization", "s", "t"), PLANE, NORM),
    "relu": (node("Relu"), ROW, {}),
    "leaky-relu": (node("LeakyRelu", alpha=0.2), ROW, {}),
    "prelu": (node("PRelu", "s"), PLANE, {"s": numbers(4, 1, 1)}),
    "elu": (node("Elu", alpha=0.7), ROW, {}),
    "selu": (node("Selu"), ROW, {}),
    "celu": (node("Celu", alpha=0.6), ROW, {}),
    "sigmoid": (node("Sigmoid"), ROW, {}),
    "hard-sigmoid": (node("HardSigmoid", alpha=0.3), ROW, {}),
    "hard-swish": (node("HardSwish"), ROW, {}),
    "tanh": (node("Tanh"), ROW, {}),
    "softplus": (node("Softplus"), ROW, {}),
    "softsign": (node("Softsign"), ROW, {}),
    "mish": (node("Mish"), ROW, {}),
    "gelu": (node("Gelu"), ROW, {}),
    "gelu-tanh": (node("Gelu", approximate="tanh"), ROW, {}),
    "erf": (node("Erf"), ROW, {}),
    "sin": (node("Sin"), ROW, {}),
    "cos": (node("Cos"), ROW, {}),
    "exp": (node("Exp"), ROW, {}),
    "neg": (node("Neg"), ROW, {}),
    "sign": (node("Sign"), ROW, {}),
    "pow": (node("Pow", "c"), ROW, {"c": np.float32(2)}),
    "pow-whole": (node("Pow", "c"), ROW, {"c": np.int64(3)}),
    "pow-each": (node("Pow", "c"), (1, 3), {"c": i64(1, 3, 2)}),
    "pow-list": (node("Pow", "c"), ROW, {"c": np.float32([2])}),
    "clip": (node("Clip", "l", "h"), ROW, {"l": np.float32(-0.5), "h": np.float32(0.7)}),
    "clip-low": (node("Clip", "l"), ROW, {"l": np.float32(-0.5)}),
    "clip-old": (node("Clip", min=-0.5, max=0.7), ROW, {}, 9),
    "matmul-left-line": (("MatMul", ("w", "x"), {}), (4,), {"w": numbers(5, 4)}),
    "max": (node("Max", "c"), ROW, {"c": numbers(12)}),
    "max-number": (node("Max", "c"), ROW, {"c": np.float32(0.1)}),
    "min": (node("Min", "c"), ROW, {"c": numbers(1, 12)}),
    "sum": (node("Sum", "x", "c"), ROW, {"c": numbers(12)}),
    "mean": (node("Mean", "x", "c"), ROW, {"c": numbers(12)}),
    "where": (node("Where"), ROW, {}),
    "max-pool": (node("MaxPool", strides=[2, 2], pads=[1, 0, 1, 0], **POOL), PLANE, {}),
    "max-pool-uneven": (node("MaxPool", strides=[2, 1], pads=[0, 1, 2, 0], **POOL), PLANE, {}),
    "max-pool-ceil": (node("MaxPool", strides=[2, 2], ceil_mode=1, **POOL), PLANE, {}),
    "max-pool-wide": (node("MaxPool", dilations=[2, 1], **POOL), PLANE, {}),
    "max-pool-line": (node("MaxPool", kernel_shape=[2]), (1, 3, 9), {}),
    "average-pool": (node("AveragePool", strides=[2, 2], pads=[1, 0, 1, 0], **POOL), PLANE, {}),
    "average-pool-all": (node("AveragePool", pads=[1, 1, 1, 1], count_include_pad=1, **POOL), PLANE, {}),
    "average-pool-uneven": (node("AveragePool", pads=[0, 1, 2, 0], **POOL), PLANE, {}),
    "average-pool-same": (node("AveragePool", auto_pad="SAME_UPPER", strides=[2, 2], **POOL), PLANE, {}),
    "global-average-pool": (node("GlobalAveragePool"), PLANE, {}),
    "global-max-pool": (node("GlobalMaxPool"), PLANE, {}),
    "concat": (node("Concat", "x", axis=1), PLANE, {}),
    "concat-constant": (node("Concat", "c", axis=1), (1, 3, 4), {"c": numbers(1, 2, 4)}),
    "slice": (
        node("Slice", "from", "to", "axes", "by"),
        PLANE,
        {"from": i64(1, -1), "to": i64(3, -(2**62)), "axes": i64(1, 3), "by": i64(1, -2)},
    ),
    "slice-old": (node("Slice", starts=[1], ends=[2**62], axes=[1]), PLANE, {}, 9),
    "split": (node("Split", "n", axis=1), PLANE, {"n": i64(1, 3)}),
    "split-unsaid": (node("Split", axis=1), PLANE, {}, 11),
    "split-equal": (node("Split", axis=1, num_outputs=2), PLANE, {}),
    "reshape": (node("Reshape", "n"), PLANE, {"n": i64(1, 2, -1)}),
    "reshape-copy": (node("Reshape", "n"), PLANE, {"n": i64(0, -1)}),
    "reshape-apart": (node("Reshape", "n"), PLANE, {"n": i64(4, 42)}),
    "flatten": (node("Flatten"), PLANE, {}),
    "flatten-all": (node("Flatten", axis=0), PLANE, {}),
    "transpose": (node("Transpose", perm=[0, 2, 3, 1]), PLANE, {}),
    "transpose-batch": (node("Transpose", perm=[2, 0, 1]), (1, 3, 4), {}),
    "squeeze": (node("Squeeze", "n"), (1, 1, 12), {"n": i64(1)}),
    "squeeze-old": (node("Squeeze", axes=[-2]), (1, 1, 12), {}, 11),
    "squeeze-all": (node("Squeeze"), (1, 1, 12), {}),
    "unsqueeze": (node("Unsqueeze", "n"), ROW, {"n": i64(1, -1)}),
    "expand": (node("Expand", "n"), (1, 1, 4), {"n": i64(1, 3, 4)}),
    "tile": (node("Tile", "n"), (1, 3, 4), {"n": i64(1, 2, 2)}),
    "gather": (node("Gather", "n", axis=1), PLANE, {"n": i64(2, 0, -1)}),
    "gather-one": (node("Gather", "n", axis=1), PLANE, {"n": np.int64(2)}),
    "gather-table": (node("Gather", "n", axis=1), (1, 5), {"n": i64(1, 2, 4, 0).reshape(2, 2)}),
    "pad": (node("Pad", "n", "c"), PLANE, {"n": i64(0, 0, 1, 0, 0, 0, 2, 1), "c": np.float32(0.5)}),
    "pad-reflect": (node("Pad", "n", mode="reflect"), PLANE, {"n": i64(0, 0, 1, 0, 0, 0, 2, 1)}),
    "pad-edge": (node("Pad", "n", mode="edge"), PLANE, {"n": i64(0, 0, 1, 0, 0, 0, 2, 1)}),
    "reduce-mean": (node("ReduceMean", "n"), PLANE, {"n": i64(2, 3)}),
    "reduce-mean-old": (node("ReduceMean", axes=[-1], keepdims=0), PLANE, {}, 11),
    "reduce-sum": (node("ReduceSum", "n", keepdims=0), PLANE, {"n": i64(1)}),
    "reduce-all": (node("ReduceSum", keepdims=1), PLANE, {}),
    "reduce-max": (node("ReduceMax", "n"), PLANE, {"n": i64(-1)}),
    "reduce-min": (node("ReduceMin", "n"), PLANE, {"n": i64(1)}),
    "reduce-l2": (node("ReduceL2", "n"), PLANE, {"n": i64(1)}),
    "reduce-squares": (node("ReduceSumSquare", "n"), PLANE, {"n": i64(1)}),
    "softmax": (node("Softmax"), ROW, {}),
    "softmax-planes": (node("Softmax", axis=1), PLANE, {}),
    "softmax-old": (node("Softmax"), PLANE, {}, 11),
    "log-softmax": (node("LogSoftmax"), ROW, {}),
    "identity": (node("Identity"), ROW, {}),
    "dropout": (node("Dropout"), ROW, {}),
    "depth-to-space": (node("DepthToSpace", blocksize=2), PLANE, {}),
    "depth-to-space-columns": (node("DepthToSpace", blocksize=2, mode="CRD"), PLANE, {}),
    "resize": (
        node("Resize", "", "n", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        PLANE,
        {"n": np.float32([1, 1, 2, 3])},
    ),
    "upsample": (node("Upsample", "n"), PLANE, {"n": np.float32([1, 1, 2, 2])}, 9),
    "no-batch": (node("Gemm", "w", "b"), (12,), {"w": numbers(12, 5), "b": numbers(5)}),
}


def made(path, case):
    """The file of a case, with a second node where one alone would say too little."""
    (kind, reads, attributes), shape, constants, *opset = case
    reads = ("x", *reads) if "x" not in reads or kind in ("Add", "Mul", "Sum", "Mean", "Concat") else reads
    nodes = []
    if kind == "Where":
        constants, reads, nodes = {"c": numbers(12) > 0}, ("c", "x", "z"), [helper.make_node("Neg", ["x"], ["z"])]
    if shape == (12,):
        nodes, kind, reads, attributes = [], "MatMul", ("x", "w"), {}
    several = {"Split": ["y", "rest"]}
    nodes.append(helper.make_node(kind, list(reads), several.get(kind, ["y"]), name="the_node", **attributes))
    return written(path, nodes, shape, constants, *opset)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_as_onnxruntime_computes_it_alone_and_in_a_batch(name, tmp_path):
    path = made(tmp_path / "a.onnx", CASES[name])
    network = load_onnx(path)
    inputs = torch.from_numpy(numbers(3, *network.features, seed=7))
    with torch.no_grad():
        found = network(inputs)
    assert found.shape[0] == 3
    torch.testing.assert_close(found.reshape(3, -1), answers(path, inputs), rtol=1e-5, atol=1e-5)
    # What treats the examples alike is not run one by one; these two have no axis of the batch in front.
    assert network.looped == (name in ("transpose-batch", "reshape-apart"))
    alone = torch.cat([network(one.unsqueeze(0)) for one in inputs])
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


POSITIVE = {"log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal"}


@pytest.mark.parametrize("name", POSITIVE)
def test_operators_of_positive_numbers(name, tmp_path):
    nodes = [helper.make_node("Exp", ["x"], ["z"]), helper.make_node(POSITIVE[name], ["z"], ["y"])]
    path = written(tmp_path / "a.onnx", nodes, ROW)
    inputs = torch.from_numpy(numbers(3, 12))
    torch.testing.assert_close(load_onnx(path)(inputs), answers(path, inputs), rtol=1e-5, atol=1e-5)


def test_every_operator_of_the_table_has_a_case():
    seen = {case[0][0] for case in CASES.values()} | set(POSITIVE.values()) | {"Cast", "CastLike"}
    assert seen == set(OPERATORS)


def test_casts_between_precisions_round_as_the_file_says(tmp_path):
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=half),
        helper.make_node("Cast", ["h"], ["s"], to=single),
        helper.make_node("CastLike", ["s", "x"], ["y"]),
    ]
    path = written(tmp_path / "a.onnx", nodes, ROW)
    inputs = torch.from_numpy(numbers(3, 12))
    found = load_onnx(path)(inputs)
    assert torch.equal(found, inputs.half().float())
    assert torch.equal(found, answers(path, inputs))
