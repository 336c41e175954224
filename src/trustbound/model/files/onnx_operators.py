"""The operators that are read: what each is in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from trustbound.model.files import onnx_arranging as arranging
from trustbound.model.files import onnx_elementwise as elementwise
from trustbound.model.files import onnx_layers as layers
from trustbound.model.files.onnx_elementwise import folded, plain, reduction

#: Operator of the default domain → function of a `Call` and its operands.
OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": plain(torch.abs),
    "Add": plain(elementwise.add),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_normalisation,
    "Cast": elementwise.cast,
    "CastLike": elementwise.cast,
    "Celu": elementwise.celu,
    "Clip": elementwise.clip,
    "Concat": arranging.concat,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Cos": plain(torch.cos),
    "DepthToSpace": arranging.depth_to_space,
    "Div": plain(elementwise.divide),
    "Dropout": layers.dropout,
    "Elu": elementwise.elu,
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Expand": arranging.expand,
    "Flatten": arranging.flatten,
    "Gather": arranging.gather,
    "Gelu": elementwise.gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "GlobalMaxPool": layers.global_max_pool,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.hard_swish,
    "Identity": layers.dropout,
    "InstanceNormalization": layers.instance_normalisation,
    "LayerNormalization": layers.layer_normalisation,
    "LeakyRelu": elementwise.leaky_relu,
    "Log": plain(torch.log),
    "LogSoftmax": elementwise.log_softmax,
    "MatMul": layers.matmul,
    "Max": folded(elementwise.larger),
    "MaxPool": layers.max_pool,
    "Mean": elementwise.mean,
    "Min": folded(elementwise.smaller),
    "Mish": plain(F.mish),
    "Mul": plain(elementwise.multiply),
    "Neg": plain(torch.neg),
    "PRelu": elementwise.prelu,
    "Pad": arranging.pad,
    "Pow": plain(elementwise.power),
    "Reciprocal": plain(torch.reciprocal),
    "ReduceL2": reduction("norm"),
    "ReduceMax": reduction("amax"),
    "ReduceMean": reduction("mean"),
    "ReduceMin": reduction("amin"),
    "ReduceSum": reduction("sum"),
    "ReduceSumSquare": reduction("squares"),
    "Relu": plain(torch.relu),
    "Reshape": arranging.reshape,
    "Resize": layers.resize,
    "Selu": elementwise.selu,
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Slice": arranging.cut,
    "Softmax": elementwise.softmax,
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Split": arranging.split,
    "Sqrt": plain(torch.sqrt),
    "Squeeze": arranging.squeeze,
    "Sub": plain(elementwise.subtract),
    "Sum": folded(elementwise.add),
    "Tanh": plain(torch.tanh),
    "Tile": arranging.tile,
    "Transpose": arranging.transpose,
    "Unsqueeze": arranging.unsqueeze,
    "Upsample": layers.resize,
    "Where": elementwise.where,
}
#: Operands that stay tensors even where they are whole numbers; and single numbers even where they are lists of one.
TENSORS = {("Gather", 1), ("Where", 0), ("Pow", 1), ("CastLike", 1)}
NUMBERS = {("Clip", 1), ("Clip", 2), ("Pad", 2), ("Pow", 1)}
