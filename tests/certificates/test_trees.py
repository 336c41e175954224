"""Proofs of tree ensembles: against every cell between thresholds, on both sides of each, and the models themselves."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from trustbound.certificates import certify
from trustbound.certificates.methods.tree_reading import read_trees
from trustbound.certificates.methods.trees import TreeSearch, _added_up, _enclosed, _Search
from trustbound.certificates.region import Region
from trustbound.data.labelled import LabelledSet
from trustbound.errors import UnsupportedError
from trustbound.model.predictor import Predictor
from trustbound.model.wrapping import wrap
from trustbound.threat import Threat

pytest.importorskip("veritas")

THREAT = ";access=scores"


def lightgbm(**params):
    pytest.importorskip("lightgbm")
    from lightgbm import LGBMClassifier

    return LGBMClassifier(verbose=-1, n_jobs=1, min_child_samples=5, **params)


def xgboost(**params):
    return pytest.importorskip("xgboost").XGBClassifier(n_jobs=1, **params)


MODELS = {
    "tree": lambda: DecisionTreeClassifier(max_depth=4, random_state=0),
    "forest": lambda: RandomForestClassifier(6, max_depth=3, random_state=0),
    "extra": lambda: ExtraTreesClassifier(6, max_depth=3, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, max_depth=2, random_state=0),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=4, random_state=0),
    "lightgbm": lambda: lightgbm(n_estimators=5, num_leaves=4),
    "xgboost": lambda: xgboost(n_estimators=5, max_depth=2),
}


def points(classes, count=200, seed=0):
    """Two features on a coarse grid of eighths, so that thresholds and limits of regions fall together."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 33, (count, 2), generator=generator).float() / 32
    score = inputs[:, 0] + (inputs[:, 1] - 0.5).abs() * 2 + 0.3 * torch.rand(count, generator=generator)
    return inputs, (score * classes / 2.31).long().clamp(max=classes - 1)


def exact(model, trees, inputs, labels, epsilon):
    """The smallest margins over squares: asked of the model at each threshold, and beside it, in float32."""
    least = []
    for row, label in zip(inputs, labels, strict=True):
        axes = []
        for feature in range(2):
            low, high = (np.clip(float(row[feature]) + sign * epsilon, 0, 1) for sign in (-1, 1))
            near = trees.thresholds[feature].astype(np.float32)
            beside = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
            values = np.concatenate([*beside, np.float32([low, high, float(row[feature])])]).astype(np.float64)
            axes.append(np.unique(values[(values >= low) & (values <= high)]))
        grid = torch.tensor(list(itertools.product(*axes)), dtype=torch.float32)
        said = model(grid)
        rivals = said.clone()
        rivals[:, label] = -np.inf
        least.append(float((said[:, label] - rivals.amax(1)).min()))
    return torch.tensor(least)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_proven_and_refuted_is_what_every_cell_says(name, classes):
    inputs, labels = points(classes)
    made = MODELS[name]().fit(inputs.numpy(), labels.numpy())
    model = wrap(made)
    trees = read_trees(model, inputs)
    some, right = inputs[:40], labels[:40]
    for epsilon in (1 / 32, 0.1, 0.24, 0.25):
        found = certify("trees", model, some, right, f"linf:{epsilon}{THREAT}")
        truth = exact(model, trees, some, right, epsilon)
        assert not bool((found.certified & (truth <= 0)).any()), "a proof of what a point of the region breaks"
        if epsilon in (0.1, 0.24):  # elsewhere thresholds lie on limits, and τ reaches beyond them
            assert bool(found.certified[truth > 1e-5].all()), "complete, but for rounding"
        assert bool(found.falsified[truth < -1e-5].all()), "complete, but for rounding"
        broken = found.witness[found.falsified]
        assert bool((model(broken).argmax(1) != right[found.falsified]).all())
        away = (broken.double() - some[found.falsified].double()).abs()
        assert float(away.max()) <= epsilon + 1e-6
        assert epsilon > 0.2 or 0 < int(found.certified.sum()) < len(some)


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_model_at_every_threshold_and_beside(name):
    data = load_breast_cancer(return_X_y=True)
    made = MODELS[name]().fit(*data)
    model = wrap(made, box=(-1e4, 1e4))
    inputs = torch.from_numpy(data[0]).float()
    trees = read_trees(model, inputs)
    rows = []
    for feature, known in enumerate(trees.thresholds):
        for threshold in known[:20]:
            for step in (-np.inf, 0, np.inf):
                row = inputs[feature].numpy().copy()
                edge = np.float32(threshold)
                row[feature] = edge if step == 0 else np.nextafter(edge, np.float32(step))
                rows.append(row)
    rows = np.array(rows)
    told = torch.from_numpy(trees.scores(rows))
    told = told.softmax(1) if trees.link == "softmax" else told / told.sum(1, keepdim=True)
    assert torch.allclose(model(torch.from_numpy(rows)).softmax(1), told, atol=2e-6 if trees.strict else 1e-11)


def test_bounds_of_the_search_are_the_largest_over_all_cells():
    """Regions of four features: the bound against a point of each cell, and against what leaves alone add up to."""
    data = load_iris()
    made = RandomForestClassifier(8, max_depth=4, random_state=1).fit(data.data, data.target)
    inputs = torch.from_numpy(data.data).float()
    model = wrap(made, box=(0.0, 8.0))
    trees = read_trees(model, inputs)
    region = Region.around(inputs[::15], (0.0, 8.0), "linf", 0.25)
    low, high = _enclosed(trees, region)
    looser = 0
    for row in range(len(region)):
        axes = []
        for feature, known in enumerate(trees.thresholds):
            edges = np.concatenate([[-1.0], known, [9.0]])
            axes.append([edges[cell : cell + 2].mean() for cell in range(low[row][feature], high[row][feature] + 1)])
        scores = trees.scores(np.array(list(itertools.product(*axes))))
        reached = trees.reached(low[row], high[row])
        for label, other in ((0, 1), (1, 2), (2, 1)):
            bound = _Search(trees, reached, label, other, 1 << 26).run(100_000, np.inf, -np.inf)
            largest = float((scores[:, other] - scores[:, label]).max())
            assert bound >= largest - 1e-9
            if largest <= 0:  # else the search ends with the first input that reaches the other class
                assert bound <= largest + 1e-9
            looser += _added_up(trees, reached, label, other) > largest + 1e-9
    assert looser > 0, "leaves alone would have done"


def test_columns_have_radii_of_their_own_and_stay_where_they_must():
    data = load_breast_cancer()
    made = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(data.data, data.target)
    inputs, labels = torch.from_numpy(data.data[::9]).float(), torch.from_numpy(data.target[::9])
    low, high = data.data.min(0) - 1e-3, data.data.max(0) + 1e-3
    model = wrap(made, box=(low, high))
    table = LabelledSet(inputs, labels, box=(low, high), columns=[str(name) for name in data.feature_names])
    used = int(np.argmax(made.feature_importances_))
    fixed = {table.columns.names[used]: {"immutable": True}}
    shares = []
    for rules in (None, fixed):
        threat = Threat.parse(f"linf:4%{THREAT}").resolved(table, rules)
        found = certify("trees", model, inputs, labels, threat)
        shares.append(int(found.certified.sum()))
        away = (found.witness[found.falsified].double() - inputs[found.falsified].double()).abs()
        span = table.columns.high[used] - table.columns.low[used]
        assert len(away)
        assert float(away[:, used].max()) <= (0.0 if rules else 0.04 * span * (1 + 1e-5))
        assert bool((model(found.witness[found.falsified]).argmax(1) != labels[found.falsified]).all())
    assert shares[1] > shares[0] > 0


def test_a_target_is_proven_for_that_class_alone():
    inputs, labels = points(3)
    model = wrap(MODELS["forest"]().fit(inputs.numpy(), labels.numpy()))
    any_other = certify("trees", model, inputs, labels, f"linf:0.1{THREAT}").certified
    to_two = certify("trees", model, inputs, labels, f"linf:0.1;goal=target:2{THREAT}").certified
    zeros = labels == 0
    assert bool((to_two >= any_other)[zeros].all())
    assert int(to_two[zeros].sum()) > int(any_other[zeros].sum())


def test_a_search_that_is_cut_short_proves_nothing():
    data = load_breast_cancer(return_X_y=True)
    made = RandomForestClassifier(20, random_state=0).fit(*data)
    model = wrap(made, box=(-1e4, 1e4))
    inputs, labels = torch.from_numpy(data[0][:40]).float(), torch.from_numpy(data[1][:40])
    short, long = (
        certify(TreeSearch(steps=steps), model, inputs, labels, f"linf:0.02{THREAT}").certified for steps in (1, 3000)
    )
    assert not bool((short & ~long).any())
    assert int(short.sum()) < int(long.sum())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: AdaBoostClassifier(n_estimators=3), "AdaBoostClassifier is no ensemble of trees that is read"),
        (lambda: GradientBoostingClassifier(n_estimators=3, loss="exponential"), "its loss is"),
        (lambda: HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]), "categorical features"),
    ],
)
def test_what_is_not_read_is_refused_by_name(made, said):
    inputs, labels = points(2)
    inputs[:, 0] = (inputs[:, 0] * 8).round()
    model = wrap(made().fit(inputs.numpy(), labels.numpy()), box=(0.0, 8.0))
    with pytest.raises(UnsupportedError, match=f"^no proof: .*{said}"):
        certify("trees", model, inputs, labels, f"linf:0.1{THREAT}")


def test_functions_are_no_trees_and_trees_have_no_layers():
    inputs, labels = points(2)
    with pytest.raises(UnsupportedError, match="no layers and no trees"):
        certify("trees", wrap(Predictor(lambda rows: rows)), inputs, labels, f"linf:0.1{THREAT}")
    with pytest.raises(UnsupportedError, match="no layers and no trees"):
        certify("trees", torch.nn.Linear(2, 2), inputs, labels, "linf:0.1", box=(0.0, 1.0))


def test_trees_that_answer_otherwise_than_the_model_are_refused():
    """Whoever changes predict_proba, by a subclass say, is no longer the forest that is read."""
    inputs, labels = points(2)

    class Cautious(RandomForestClassifier):
        def predict_proba(self, rows):
            return 0.5 * super().predict_proba(rows) + 0.25

    Cautious.__module__, Cautious.__name__ = "sklearn.ensemble._forest", "RandomForestClassifier"
    made = Cautious(3, random_state=0).fit(inputs.numpy(), labels.numpy())
    with pytest.raises(UnsupportedError, match="answer otherwise"):
        certify("trees", wrap(made), inputs, labels, f"linf:0.1{THREAT}")


class Thresholded:
    """A forest that a caller asks at a threshold of his own."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __call__(self, arrays):
        return (self.estimator.predict_proba(arrays)[:, 1] >= 0.4).astype(np.int64)


def test_a_callable_that_holds_an_estimator_is_not_that_estimator():
    inputs, labels = points(2)
    fitted = MODELS["forest"]().fit(inputs.numpy(), labels.numpy())
    model = wrap(Thresholded(fitted), shows="decisions", classes=2, box=(0.0, 1.0))
    with pytest.raises(UnsupportedError, match="no trees to bound"):
        read_trees(model, inputs[:4])


def test_an_estimator_with_a_method_of_its_own_is_refused():
    inputs, labels = points(2)
    fitted = MODELS["forest"]().fit(inputs.numpy(), labels.numpy())
    asked = fitted.predict_proba
    fitted.predict_proba = lambda arrays: asked(np.abs(arrays))
    with pytest.raises(UnsupportedError, match="methods of its own"):
        read_trees(wrap(fitted, box=(0.0, 1.0)), inputs[:4])


def test_scores_that_the_link_makes_equal_are_not_told_apart():
    inputs, labels = points(2)
    fitted = GradientBoostingClassifier(n_estimators=2, max_depth=2, learning_rate=1e-16, init="zero", random_state=0)
    model = wrap(fitted.fit(inputs.numpy(), labels.numpy()), box=(0.0, 1.0))
    proof = certify("trees", model, inputs[:20], labels[:20], Threat.parse("linf:0.001" + THREAT))
    assert not bool(proof.certified.any())


def test_an_objective_with_another_link_is_refused():
    lightgbm_package = pytest.importorskip("lightgbm")
    inputs, labels = points(2)
    data = lightgbm_package.Dataset(inputs.numpy(), labels.numpy().astype(float))
    params = {"objective": "cross_entropy_lambda", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    from trustbound.certificates.methods.tree_reading import _lightgbm

    with pytest.raises(UnsupportedError, match="its objective is cross_entropy_lambda"):
        _lightgbm(lightgbm_package.train(params, data, 3), None)


def test_lightgbm_takes_the_smallest_numbers_for_zero_before_it_compares_them():
    """Columns with negatives, zeros and positives are split at about ±1e-35: its trees alone would say otherwise."""
    generator = np.random.default_rng(0)
    values = generator.choice([-1.0, 0.0, 1.0], size=(300, 2)).astype(np.float32)
    labels = torch.from_numpy(((values[:, 0] >= 0) ^ (values[:, 1] > 0)).astype(np.int64))
    fitted = lightgbm(n_estimators=8, num_leaves=4).fit(values, labels.numpy())
    model = wrap(fitted, box=(-1.0, 1.0))
    inputs = torch.from_numpy(values[:12])
    made = read_trees(model, inputs)
    assert any((np.abs(known) < 1e-30).any() for known in made.thresholds)
    least = np.float32(1e-35)
    edges = np.array([-least, least, 0.0, np.nextafter(-least, np.float32(-1)), np.nextafter(least, np.float32(1))])
    grid = torch.from_numpy(np.array(list(itertools.product(edges, [-1.0, 0.0, 1.0])), dtype=np.float32))
    assert torch.equal(model(grid).argmax(1), torch.from_numpy(made.scores(grid.numpy())).argmax(1))


def test_questions_for_missing_values_are_read_or_refused_in_a_sentence():
    inputs, _ = points(2)
    values = inputs.numpy().copy()
    values[::7, 0] = np.nan
    fitted = DecisionTreeClassifier(max_depth=3, random_state=0).fit(values, np.isnan(values[:, 0]).astype(int))
    model = wrap(fitted, box=(0.0, 1.0))
    made = read_trees(model, inputs[:6])
    assert torch.equal(model(inputs[:20]).argmax(1), torch.from_numpy(made.scores(inputs[:20].numpy())).argmax(1))
    with pytest.raises(UnsupportedError, match="NaN or infinity"):
        read_trees(model, torch.full((1, 2), torch.inf))


@pytest.mark.parametrize("missing", [0.0, -1.0])
def test_a_number_that_stands_for_a_missing_value_is_refused(missing):
    """XGBoost sends it the way of missing values, wherever it lies beside the thresholds: a changed input may be it."""
    inputs, labels = points(2)
    fitted = xgboost(n_estimators=3, max_depth=2, missing=missing).fit(inputs.numpy(), labels.numpy())
    with pytest.raises(UnsupportedError, match=f"it takes {missing:g} for missing"):
        read_trees(wrap(fitted, box=(-1.0, 1.0)), inputs[:6])
