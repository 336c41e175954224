"""Trees of fitted models: scikit-learn's forests and boosting, LightGBM, XGBoost; others are refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from trustbound.certificates.methods.tree_ensemble import Floats, Tree, TreeEnsemble
from trustbound.errors import UnsupportedError
from trustbound.model.files.estimators import Boosted
from trustbound.model.predictor import Predictor, estimator_behind
from trustbound.model.wrapping import Model

#: What is said of a model that is no ensemble of trees.
NO_TREES = "no proof: no layers and no trees to bound"
#: Rounding of sums in float64 takes less than this share of all that is added: 2⁻⁵³ for each of a million trees.
_DOUBLE = 1e-9
#: What the logarithm of two probabilities may blur.
_LOGARITHM = 1e-11
#: Scores so near to each other may become equal probabilities, in float64 and float32.
_LINK, _LINK_SINGLE = 1e-12, 1e-5
#: LightGBM takes numbers up to this size for 0, whatever it asks of them.
_LIGHTGBM_ZERO = float(np.float32(1e-35))
#: Its objectives whose classes turn where their scores are equal.
_LIGHTGBM_OBJECTIVES = ("binary", "multiclass", "softmax", "cross_entropy")
#: Probabilities of model and trees may differ by so much on the points where they are compared, in float64 and float32.
_AGREE, _AGREE_SINGLE = 1e-9, 2e-5


def read_trees(model: Model, inputs: torch.Tensor) -> TreeEnsemble:
    """The ensemble behind a predictor, compared with it on examples (B, *F) and at its own thresholds.

    Raises      UnsupportedError that says why there is none: another kind of model, categories, missing values as an
                answer of their own, answers that differ.
    """
    if not model.task.plain:
        raise UnsupportedError(f"no proof: trees are proven for classes alone; the task is {model.task.name}")
    held = model.module.function if isinstance(model.module, Predictor) else None
    if held is None or model.mean is not None or model.std is not None or model.output is not None:
        raise UnsupportedError(NO_TREES)
    made = _boosted(held) if isinstance(held, Boosted) else _estimator(estimator_behind(held))
    made_features = int(np.prod(inputs.shape[1:]))
    if made.features != made_features:
        raise UnsupportedError(f"no proof: the trees take {made.features} features, the inputs have {made_features}")
    _compare(model, made, inputs)
    return made


def _compare(model: Model, made: TreeEnsemble, inputs: torch.Tensor) -> None:
    """Refuse trees that answer otherwise than the model: on examples, and on, above and below their thresholds."""
    flat = inputs.detach().cpu().float().flatten(1).numpy()
    if not np.isfinite(flat).all():
        raise UnsupportedError("no proof: the inputs hold NaN or infinity")
    rows, largest = [flat], np.finfo(np.float32).max
    generator = np.random.default_rng(0)
    for step in (-np.inf, 0.0, np.inf):
        some = np.repeat(flat[:1], 8, axis=0)
        for feature, asked in enumerate(made.thresholds):
            known = asked[np.isfinite(asked)]  # a question for missing values has an infinite threshold
            if len(known):
                chosen = np.clip(generator.choice(known, 8), -largest, largest).astype(np.float32)
                beside = chosen if step == 0.0 else np.nextafter(chosen, np.float32(step))
                some[:, feature] = np.clip(beside, -largest, largest)
        rows.append(some)
    points = np.concatenate(rows)
    with torch.no_grad():
        outputs = model(torch.from_numpy(points).reshape(-1, *inputs.shape[1:])).double()
    scores = torch.from_numpy(made.scores(points))
    if outputs.shape != scores.shape:
        raise UnsupportedError(f"no proof: the trees give {scores.shape[1]} scores, the model {outputs.shape[1]}")
    told = scores.softmax(1) if made.link == "softmax" else scores / scores.sum(1, keepdim=True)
    decided = isinstance(model.module, Predictor) and model.module.shows == "decisions"
    if decided:
        rivals = scores.topk(2, dim=1).values
        apart = (rivals[:, 0] - rivals[:, 1]) > 2 * made.error
        agree = bool((outputs.argmax(1) == scores.argmax(1))[apart].all())
    else:
        near = _AGREE_SINGLE if made.strict else _AGREE
        agree = bool(((outputs.softmax(1) - told).abs() <= near).all())
    if not agree:
        raise UnsupportedError("no proof: the trees that were read answer otherwise than the model")


def _refused(kind: Any, why: str) -> UnsupportedError:
    return UnsupportedError(f"no proof: the trees of {type(kind).__name__} are not read: {why}")


def _ensemble(
    trees: list[Tree],
    base: Any,
    features: int,
    link: str,
    *,
    strict: bool = False,
    unit: float = _DOUBLE,
    zeroed: float = 0.0,
) -> TreeEnsemble:
    base = np.asarray(base, dtype=np.float64)
    size = float(np.abs(base).max() + sum(np.abs(tree.value).max() for tree in trees))
    if not np.isfinite(size):
        raise UnsupportedError("no proof: a leaf holds a value that is not finite")
    return TreeEnsemble(
        trees=trees,
        strict=strict,
        base=base,
        error=2.0 * unit * size + (_LOGARITHM * len(trees) if link == "share" else _LINK_SINGLE if strict else _LINK),
        zeroed=zeroed,
        link=link,
        features=features,
    )


def _estimator(held: Any) -> TreeEnsemble:
    """Of scikit-learn and the wrappers that act like it."""
    module, name = type(held).__module__, type(held).__name__
    if {"predict", "predict_proba", "decision_function"} & set(getattr(held, "__dict__", ())):
        raise _refused(held, "methods of its own stand in the way of its class's")
    if module.startswith("lightgbm."):
        return _lightgbm(held.booster_, None)
    if module.startswith("xgboost."):
        if "best_iteration" in held.get_booster().attributes():
            raise _refused(held, "it stopped early, and answers with some of its trees. Save its booster's slice")
        if (missing := held.missing) is not None and not np.isnan(missing):
            raise _refused(held, f"it takes {missing:g} for missing, a number that inputs may be changed to")
        return _xgboost(held.get_booster())
    if not module.startswith("sklearn."):
        raise UnsupportedError(NO_TREES)
    if name in ("RandomForestClassifier", "ExtraTreesClassifier", "DecisionTreeClassifier", "ExtraTreeClassifier"):
        if getattr(held, "n_outputs_", 1) != 1:
            raise _refused(held, "it has several outputs")
        members = getattr(held, "estimators_", [held])
        trees = [_sklearn_tree(member.tree_, _shares(member.tree_.value[:, 0, :])) for member in members]
        return _ensemble(trees, np.zeros(len(held.classes_)), held.n_features_in_, "share")
    if name == "GradientBoostingClassifier":
        return _gradient_boosting(held)
    if name == "HistGradientBoostingClassifier":
        return _histogram_boosting(held)
    raise UnsupportedError(
        f"no proof: {name} is no ensemble of trees that is read (scikit-learn's forests, gradient boosting, LightGBM, "
        "XGBoost)"
    )


def _shares(value: Floats) -> Floats:
    return np.asarray(value / value.sum(axis=1, keepdims=True), dtype=np.float64)


def _sklearn_tree(tree: Any, value: Floats) -> Tree:
    left, right = (np.asarray(side, dtype=np.int64) for side in (tree.children_left, tree.children_right))
    leaf = left < 0
    return Tree(
        left=left,
        right=right,
        feature=np.where(leaf, -1, tree.feature).astype(np.int64),
        threshold=np.where(leaf, 0.0, tree.threshold),
        value=np.where(leaf[:, None], value, 0.0),
    )


def _at(value: Floats, place: int, classes: int) -> Floats:
    """Values (n,) of one class; of two classes with one raw score it is that of class 1."""
    spread = np.zeros((len(value), classes))
    spread[:, place] = value
    return spread


def _gradient_boosting(held: Any) -> TreeEnsemble:
    classes, stages = len(held.classes_), held.estimators_
    if held.init_ != "zero" and type(held.init_).__name__ != "DummyClassifier":
        raise _refused(held, f"it starts from {type(held.init_).__name__}")
    probe = np.zeros((1, held.n_features_in_), dtype=np.float32)
    start = np.asarray(held._raw_predict_init(probe), dtype=np.float64)[0]
    if type(held._loss).__name__ not in ("HalfBinomialLoss", "HalfMultinomialLoss"):
        raise _refused(held, f"its loss is {type(held._loss).__name__}")
    two = stages.shape[1] == 1
    trees = [
        _sklearn_tree(member.tree_, _at(held.learning_rate * member.tree_.value[:, 0, 0], 1 if two else place, classes))
        for stage in stages
        for place, member in enumerate(stage)
    ]
    base = [0.0, float(start[0])] if two else start
    return _ensemble(trees, base, held.n_features_in_, "softmax")


def _histogram_boosting(held: Any) -> TreeEnsemble:
    if held.is_categorical_ is not None or getattr(held, "_preprocessor", None) is not None:
        raise _refused(held, "it has categorical features")
    classes = len(held.classes_)
    start, two = np.ravel(held._baseline_prediction), held.n_trees_per_iteration_ == 1
    trees = []
    for stage in held._predictors:
        for place, member in enumerate(stage):
            nodes = member.nodes
            leaf = nodes["is_leaf"] != 0
            trees.append(
                Tree(
                    left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    feature=np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
                    threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
                    value=_at(np.where(leaf, nodes["value"], 0.0), 1 if two else place, classes),
                )
            )
    base = [0.0, float(start[0])] if two else start
    return _ensemble(trees, base, held.n_features_in_, "softmax")


def _boosted(held: Boosted) -> TreeEnsemble:
    if held.kind == "numbers":
        raise UnsupportedError("no proof: trees are proven for classes alone")
    if type(held.booster).__module__.startswith("lightgbm."):
        return _lightgbm(held.booster, held.kind)
    return _xgboost(held.booster)


def _lightgbm(booster: Any, kind: str | None) -> TreeEnsemble:
    told = booster.dump_model()
    wide = int(told["num_tree_per_iteration"])
    objective = str(told.get("objective", ""))
    if objective.split()[:1] not in [[known] for known in _LIGHTGBM_OBJECTIVES]:
        raise _refused(booster, f"its objective is {objective or 'unknown'}")
    classes = 2 if wide == 1 else wide
    trees = []
    for number, one in enumerate(told["tree_info"]):
        if one.get("num_cat", 0):
            raise _refused(booster, "it has categorical features")
        trees.append(_lightgbm_tree(booster, one["tree_structure"], 1 if wide == 1 else number % wide, classes))
    return _ensemble(trees, np.zeros(classes), int(told["max_feature_idx"]) + 1, "softmax", zeroed=_LIGHTGBM_ZERO)


def _lightgbm_tree(booster: Any, root: dict[str, Any], place: int, classes: int) -> Tree:
    nodes: list[list[float]] = []
    waiting: list[tuple[dict[str, Any], int, int]] = [(root, -1, 0)]
    while waiting:  # parents first
        node, parent, side = waiting.pop(0)
        here = len(nodes)
        if parent >= 0:
            nodes[parent][side] = here
        if "leaf_const" in node or "leaf_coeff" in node:
            raise _refused(booster, "its leaves are linear")
        if "split_feature" not in node:
            nodes.append([-1, -1, -1, 0.0, float(node["leaf_value"])])
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            raise _refused(booster, "it asks for categories, or takes zeros for missing")
        nodes.append([-1, -1, node["split_feature"], float(node["threshold"]), 0.0])
        waiting += [(node["left_child"], here, 0), (node["right_child"], here, 1)]
    return _from_rows(nodes, place, classes)


def _from_rows(nodes: list[list[float]], place: int, classes: int) -> Tree:
    table = np.array(nodes, dtype=np.float64)
    left, right, feature = (table[:, column].astype(np.int64) for column in range(3))
    value = _at(np.where(left < 0, table[:, 4], 0.0), place, classes)
    return Tree(left=left, right=right, feature=feature, threshold=table[:, 3], value=value)


def _xgboost(booster: Any) -> TreeEnsemble:
    """Thresholds, values and sums in float32, an input going left where it is less."""
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    fitted, objective = learner["gradient_booster"], learner["objective"]["name"]
    if fitted["name"] != "gbtree" or objective not in ("binary:logistic", "multi:softprob", "multi:softmax"):
        raise _refused(booster, f"it is a {fitted['name']} of {objective}")
    count = int(learner["learner_model_param"]["num_class"])
    classes = 2 if objective == "binary:logistic" else count
    trees = []
    for one, group in zip(fitted["model"]["trees"], fitted["model"]["tree_info"], strict=True):
        if any(one["split_type"]) or one.get("categories"):
            raise _refused(booster, "it has categorical features")
        left, right = (np.array(one[side], dtype=np.int64) for side in ("left_children", "right_children"))
        leaf = left < 0
        asked = np.array(one["split_conditions"], dtype=np.float32).astype(np.float64)
        if bool((left[~leaf] <= np.flatnonzero(~leaf)).any() or (right[~leaf] <= np.flatnonzero(~leaf)).any()):
            raise _refused(booster, "its nodes are in no order")
        trees.append(
            Tree(
                left=left,
                right=np.where(leaf, -1, right),
                feature=np.where(leaf, -1, np.array(one["split_indices"], dtype=np.int64)),
                threshold=np.where(leaf, 0.0, asked),
                value=_at(np.where(leaf, asked, 0.0), 1 if classes == 2 and count < 2 else int(group), classes),
            )
        )
    unit = (len(trees) + 4) * 2.0**-23
    features = int(learner["learner_model_param"]["num_feature"])
    # What it starts from is measured: how it is written down differs by version.
    zero = np.zeros((1, features), dtype=np.float32)
    bare = _ensemble(trees, np.zeros(classes), features, "softmax", strict=True)
    raw = np.ravel(booster.inplace_predict(zero, predict_type="margin", validate_features=False)).astype(np.float64)
    said = np.array([0.0, raw[0]]) if len(raw) == 1 else raw
    return _ensemble(trees, said - bare.scores(zero)[0], features, "softmax", strict=True, unit=unit)
