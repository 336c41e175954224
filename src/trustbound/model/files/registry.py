"""Every kind of model file that is told from its content: what it is, and what to do with it."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry

_ROOM = "trustbound.model.files."

#: What a framework without a reader here is answered with.
_FUNCTION = (
    "write a function that loads it and gives the scores (B, C) of an array (B, *F), and name that: "
    "path/file.py:function --access scores"
)


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """One kind of file or folder.

    Parameters
        name        of the kind.
        line        what it is, in the words of an error: "… is LINE: ADVICE".
        advice      what to do; `{path}` stands for the file. Of a kind that is loaded, for where it cannot be.
        target      "module:function" of what reads it, or of the refusal.
    """

    name: str
    line: str
    advice: str
    target: str = _ROOM + "recognising:refusal"

    @property
    def loads(self) -> bool:
        """Whether `load_model` takes it as it is; a pickle with trust."""
        return not self.target.endswith(":refusal")


FILES = Registry(
    "a kind of model file",
    FileKind(
        name="empty",
        line="empty",
        advice="copy, download or save it again",
    ),
    FileKind(
        name="git-lfs",
        line="a Git LFS pointer, a few lines that stand for the real file",
        advice="fetch the file itself with `git lfs pull`",
    ),
    FileKind(
        name="html",
        line="a web page, most likely a download that failed",
        advice="open its address in a browser, sign in where that is asked for, and download the file itself",
    ),
    FileKind(
        name="zip-cut-short",
        line="a zip archive that is truncated, damaged or no torch checkpoint",
        advice="copy, download or save it again",
    ),
    FileKind(
        name="zip",
        line="a zip archive that holds no model",
        advice="unpack it, and name the file in it that is one",
    ),
    FileKind(
        name="archive",
        line="a compressed file or an archive",
        advice="unpack it, and name the file in it that is a model",
    ),
    FileKind(
        name="safetensors",
        line="a safetensors file, which holds weights",
        advice="say what they belong to: zoo-name:{path}, or path/file.py:function with --weights {path}",
        target=_ROOM + "weights:read_weights",
    ),
    FileKind(
        name="torch-checkpoint",
        line="a torch checkpoint, which holds weights",
        advice="say what they belong to: zoo-name:{path}, or path/file.py:function with --weights {path}",
        target=_ROOM + "weights:read_checkpoint",
    ),
    FileKind(
        name="torch-sharded",
        line="a sharded torch checkpoint (torch.distributed.checkpoint)",
        advice="join it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pt",
    ),
    FileKind(
        name="torchscript",
        line="a TorchScript program",
        advice="name it alone, without weights or arguments",
        target=_ROOM + "programs:load_torchscript",
    ),
    FileKind(
        name="torch-export",
        line="a torch.export program",
        advice="name it alone, without weights or arguments",
        target=_ROOM + "programs:load_export",
    ),
    FileKind(
        name="executorch",
        line="an ExecuTorch program, made for devices",
        advice="name the module that it was exported from, path/file.py:function",
    ),
    FileKind(
        name="transformers",
        line="a folder of Hugging Face transformers",
        advice="write a function that returns AutoModel….from_pretrained(folder), and name it: path/file.py:function "
        "--output logits",
    ),
    FileKind(
        name="onnx",
        line="an ONNX model",
        advice="it is loaded with pip install 'trustbound[onnx]'",
        target=_ROOM + "onnx_building:load_onnx",
    ),
    FileKind(
        name="hdf5",
        line="an HDF5 file, of Keras most likely",
        advice=f"load it in Keras: {_FUNCTION}",
    ),
    FileKind(
        name="keras",
        line="a Keras model (.keras)",
        advice=f"load it with keras.saving.load_model: {_FUNCTION}",
    ),
    FileKind(
        name="saved-model",
        line="a TensorFlow SavedModel",
        advice=f"load it with tf.saved_model.load: {_FUNCTION}",
    ),
    FileKind(
        name="tensorflow-checkpoint",
        line="a TensorFlow checkpoint, which holds weights",
        advice=f"load it in TensorFlow: {_FUNCTION}",
    ),
    FileKind(
        name="tflite",
        line="a TensorFlow Lite model",
        advice=f"load it with tf.lite.Interpreter: {_FUNCTION}",
    ),
    FileKind(
        name="flax",
        line="JAX or Flax weights (msgpack)",
        advice=f"restore them with flax.serialization: {_FUNCTION}",
    ),
    FileKind(
        name="orbax",
        line="a JAX checkpoint of Orbax",
        advice=f"restore it with orbax.checkpoint: {_FUNCTION}",
    ),
    FileKind(
        name="gguf",
        line="a language model for llama.cpp (GGUF or GGML)",
        advice="language models are not audited here; name a classifier",
    ),
    FileKind(
        name="core-ml",
        line="a Core ML model",
        advice=f"load it with coremltools: {_FUNCTION}",
    ),
    FileKind(
        name="openvino",
        line="an OpenVINO model",
        advice=f"load it with openvino.Core: {_FUNCTION}",
    ),
    FileKind(
        name="pmml",
        line="a PMML description",
        advice=f"load it with pypmml: {_FUNCTION}",
    ),
    FileKind(
        name="skops",
        line="a scikit-learn model that skops saved",
        advice="it is loaded with pip install 'trustbound[sklearn]', without running code",
        target=_ROOM + "estimators:load_skops",
    ),
    FileKind(
        name="pickle",
        line="a Python pickle, which can run any code when it is loaded",
        advice="save a scikit-learn model with skops.io.dump(model, 'model.skops') instead; if you trust whoever made "
        "the file, pass trust_pickle=True (--trust-pickle)",
        target=_ROOM + "estimators:load_pickle",
    ),
    FileKind(
        name="joblib",
        line="a pickle that joblib compressed, which can run any code when it is loaded",
        advice="save a scikit-learn model with skops.io.dump(model, 'model.skops') instead; if you trust whoever made "
        "the file, pass trust_pickle=True (--trust-pickle)",
        target=_ROOM + "estimators:load_pickle",
    ),
    FileKind(
        name="lightgbm",
        line="a LightGBM model",
        advice="it is loaded with pip install 'trustbound[trees]'",
        target=_ROOM + "estimators:load_lightgbm",
    ),
    FileKind(
        name="xgboost",
        line="an XGBoost model",
        advice="it is loaded with pip install xgboost",
        target=_ROOM + "estimators:load_xgboost",
    ),
    FileKind(
        name="xgboost-binary",
        line="an XGBoost model in the binary form that XGBoost has given up",
        advice="load it with the version that wrote it, and save it as JSON: booster.save_model('model.json')",
    ),
    FileKind(
        name="catboost",
        line="a CatBoost model",
        advice=f"load it with catboost: {_FUNCTION}",
    ),
    FileKind(
        name="numpy",
        line="an array or arrays of NumPy, no model",
        advice="pass data with --data; weights belong in a safetensors file",
    ),
    FileKind(
        name="json",
        line="a JSON file that describes no model which is known",
        advice="XGBoost's models begin with their learner; of other libraries name a function, path/file.py:function",
    ),
    FileKind(
        name="text",
        line="a text file, no model",
        advice="code is named by its function, path/file.py:function",
    ),
    FileKind(
        name="folder",
        line="a folder that holds no model which is known",
        advice="name the file of the model",
    ),
    FileKind(
        name="unknown",
        line="truncated, damaged or no model file that is known",
        advice="copy or save it again; of a framework without a reader here, " + _FUNCTION,
    ),
)
