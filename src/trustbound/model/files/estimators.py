"""Fitted models of other libraries, from their own files, as predictors: scikit-learn, LightGBM, XGBoost."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from trustbound.errors import InputError
from trustbound.model.files.beside import importable, without_source
from trustbound.model.files.checked_trees import CHECKED, damage
from trustbound.model.files.recognising import recognise, refusal
from trustbound.model.predictor import Array, Predictor, predictor_of
from trustbound.tasks.task import Task


def load_skops(path: Path, *, trust_pickle: bool, shows: str | None, classes: int | None, task: Task) -> nn.Module:
    """A scikit-learn model that skops saved: types that skops does not know are refused unless they are trusted.

    It does not vouch for compiled trees, which are checked here, node by node.

    Raises      InputError that names those types; for a damaged file, and where skops is not installed.
    """
    io = _library("skops.io", path)
    try:
        strange = list(io.get_untrusted_types(file=path))
    except Exception as error:
        raise _damaged(path, error) from error
    unknown = [name for name in strange if name not in CHECKED]
    if unknown and not trust_pickle:
        raise InputError(
            f"{path} holds types that skops does not vouch for ({', '.join(unknown[:5])}), which were not loaded. If "
            "you trust whoever made the file, pass trust_pickle=True (--trust-pickle)."
        )
    try:
        with importable(path):
            held = io.load(path, trusted=strange)
    except (ImportError, AttributeError) as error:
        raise without_source(path, error) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if wrong := damage(held):
        raise InputError(f"{path} is damaged: {wrong}. Copy or save it again.")
    return _predictor(path, held, shows, classes, task)


def load_pickle(path: Path, *, trust_pickle: bool, shows: str | None, classes: int | None, task: Task) -> nn.Module:
    """A pickled model, also joblib's and compressed; its own modules are found beside the file.

    Raises      InputError without trust, and for what holds no model.
    """
    if not trust_pickle:
        raise refusal(path, recognise(path))
    import joblib

    try:
        with importable(path):
            held = joblib.load(path)
    except (ImportError, AttributeError) as error:
        raise without_source(path, error) from error
    except Exception as error:
        raise _damaged(path, error) from error
    return held if isinstance(held, nn.Module) else _predictor(path, held, shows, classes, task)


def load_lightgbm(path: Path, *, trust_pickle: bool, shows: str | None, classes: int | None, task: Task) -> nn.Module:
    """A LightGBM model in its text form, as a booster."""
    library = _library("lightgbm", path)
    try:
        booster = library.Booster(model_str=path.read_text(encoding="utf-8"))
        features = booster.num_feature()
    except Exception as error:
        raise _damaged(path, error) from error
    objective = str(booster.dump_model(num_iteration=0).get("objective", "")) or "regression"
    wide = booster.num_model_per_iteration()
    told = _kind_of_scores(path, objective, wide, task)
    return Predictor(Boosted(booster, _lightgbm_scores, told, features), shows="scores", task=task)


def load_xgboost(path: Path, *, trust_pickle: bool, shows: str | None, classes: int | None, task: Task) -> nn.Module:
    """An XGBoost model in JSON or UBJSON, as a booster."""
    import json

    library = _library("xgboost", path)
    try:
        booster = library.Booster({"nthread": 1}, model_file=str(path))
        learner = json.loads(booster.save_config())["learner"]
    except Exception as error:
        raise _damaged(path, error) from error
    wide = max(1, int(learner["learner_model_param"]["num_class"]))
    told = _kind_of_scores(path, learner["objective"]["name"], wide, task)
    return Predictor(Boosted(booster, _xgboost_scores, told, booster.num_features()), shows="scores", task=task)


class Boosted:
    """The raw scores of a booster, before any link: their softmax is what it calls probability.

    Parameters
        booster     of its library.
        raw         (booster, inputs) → (B,) or (B, C).
        kind        "classes", "two classes" (one raw score, of class 1) or "numbers".
        features    how many it takes; inputs of more axes are flattened.
    """

    def __init__(self, booster: Any, raw: Callable[[Any, Array], Array], kind: str, features: int) -> None:
        self.booster, self.raw, self.kind, self.features = booster, raw, kind, features

    def __call__(self, inputs: Array) -> Array:
        """(B, *F) → (B, C), or (B,) for numbers."""
        flat = inputs.reshape(len(inputs), -1)
        if flat.shape[1] != self.features:
            raise InputError(
                f"the model takes {self.features} features; got inputs of shape {inputs.shape}. Check that the table "
                "has the columns that it was fitted on, in their order, beside the label."
            )
        scores = np.asarray(self.raw(self.booster, flat), dtype=np.float64)
        if self.kind == "two classes":
            return cast(Array, np.stack([np.zeros(len(scores)), scores.reshape(-1)], axis=1))
        return scores


def _lightgbm_scores(booster: Any, inputs: Array) -> Array:
    return cast(Array, booster.predict(inputs, raw_score=True, num_threads=1))


def _xgboost_scores(booster: Any, inputs: Array) -> Array:
    return cast(Array, booster.inplace_predict(inputs, predict_type="margin", validate_features=False))


def _kind_of_scores(path: Path, objective: str, wide: int, task: Task) -> str:
    """What raw scores mean, by the name of the objective."""
    name = objective.partition(" ")[0]
    if wide > 1:
        return "classes"
    two = name in ("binary", "cross_entropy", "binary:logistic", "binary:logitraw", "reg:logistic")
    if two and task.plain:
        return "two classes"
    if task.plain:
        raise InputError(
            f"{path} was fitted with the objective {name}, which gives numbers, no classes. For a regression pass "
            "task='regression:tolerance=…' (--task)."
        )
    return "numbers"


def _predictor(path: Path, held: Any, shows: str | None, classes: int | None, task: Task) -> nn.Module:
    if not hasattr(held, "predict"):
        raise InputError(
            f"{path} holds no fitted model but {type(held).__module__}.{type(held).__name__}. Save the model itself, "
            "which has predict_proba or predict."
        )
    return predictor_of(held, shows, classes, None, task)


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise refusal(path, recognise(path)) from error


def _damaged(path: Path, error: Exception) -> InputError:
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return InputError(f"{path} is damaged, or of another version ({first[:200]}). Copy or save it again.")
