"""Real tables from CSV to bracket, from the command line; what columns may do is measured anew from the files."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.ensemble import GradientBoostingClassifier
from torch import nn

SOURCE = """
import torch
from torch import nn
import trustbound as tb
def make(path, mean, std, classes):
    net = nn.Sequential(nn.Linear(len(mean), 16), nn.ReLU(), nn.Linear(16, classes))
    net.load_state_dict(torch.load(path))
    return tb.wrap(net, mean=mean, std=std)
"""


def written(tmp_path, bunch, rows=120):
    """A CSV of some rows, a network that has learnt all of them, and the arguments of its factory."""
    names = [str(name) for name in bunch.feature_names]
    values = bunch.data.astype(np.float32)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "label"])
        writer.writerows([*map(repr, map(float, row)), label] for row, label in zip(values, bunch.target, strict=True))
    inputs, labels = torch.from_numpy(values), torch.from_numpy(bunch.target)
    mean, std = inputs.mean(0), inputs.std(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classes = int(labels.max()) + 1
        net = nn.Sequential(nn.Linear(len(names), 16), nn.ReLU(), nn.Linear(16, classes))
        optimizer = torch.optim.Adam(net.parameters(), 0.01, weight_decay=1e-3)
        for _ in range(120):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net((inputs - mean) / std), labels).backward()
            optimizer.step()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.py").write_text(SOURCE)
    given = {"path": str(tmp_path / "net.pt"), "mean": mean.tolist(), "std": std.tolist(), "classes": classes}
    return names, values, ["--arguments", json.dumps(given), "--data", str(tmp_path / "table.csv"), "--limit", rows]


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_a_network_on_a_table_has_both_sides_in_the_units_of_its_columns(tmp_path, trustbound, load):
    names, values, asked = written(tmp_path, load())
    rules = {names[0]: {"radius": 0.25}, names[3]: {"immutable": True}, names[4]: {"radius": "0.2*std"}}
    (tmp_path / "columns.json").write_text(json.dumps(rules))
    run = tmp_path / "run"
    more = ["--columns", tmp_path / "columns.json", "--threat", "linf:4%", "--budget", "quick", "--curve", 0]
    done = trustbound("audit", f"{tmp_path / 'net.py'}:make", *asked, *more, "--run", run, "--json")
    assert done.code in (0, 1), done.err
    (bracket,) = json.loads(done.out)["brackets"]
    assert (bracket["threat"], bracket["n"]) == ("linf:4%", 120)
    assert 0 < bracket["lower"] <= bracket["upper"] < 1
    assert bracket["certified"] > 0 < bracket["broken"]
    span, spread = values.max(0) - values.min(0), values.astype(np.float64).std(0)
    allowed = 0.04 * span.astype(np.float64)
    allowed[0], allowed[3], allowed[4] = 0.25, 0.0, 0.2 * spread[4]
    assert [one["name"] for one in bracket["columns"]] == names
    assert [one["radius"] for one in bracket["columns"]] == pytest.approx(allowed.tolist(), rel=1e-6)
    assert bracket["columns"][3]["kind"] == "immutable"
    assert f"kept as they are: {names[3]}" in bracket["change"]
    seen = 0
    for file in (run / "adversarials").iterdir():
        held = load_file(file)
        if "adversarial" in held and len(held["adversarial"]):
            seen += len(held["adversarial"])
            for point in held["adversarial"].astype(np.float64):
                away = np.abs(values.astype(np.float64) - point)
                inside = (away <= allowed * (1 + 2e-6)).all(axis=1)
                assert inside.any(), "no row of the table is within the columns' radii of this witness"
                assert point[3] in values[:, 3][inside], "the immutable column has changed"
    assert seen >= bracket["broken"]
    again = trustbound("audit", f"{tmp_path / 'net.py'}:make", *asked, *more, "--run", run, "--json")
    assert json.loads(again.out)["brackets"] == [bracket]
    (tmp_path / "columns.json").write_text(json.dumps({names[3]: {"immutable": True}}))
    refused = trustbound("audit", f"{tmp_path / 'net.py'}:make", *asked, *more, "--run", run, "--json")
    assert "was begun" in refused.error or "another" in refused.error


@pytest.mark.parametrize(("load", "access"), [(load_breast_cancer, "scores"), (load_wine, "decisions")])
def test_a_boosted_forest_on_a_table_has_both_sides_too(tmp_path, trustbound, load, access):
    io = pytest.importorskip("skops.io")
    pytest.importorskip("veritas")
    bunch = load()
    names, values, asked = written(tmp_path, bunch, rows=60)
    made = GradientBoostingClassifier(n_estimators=15, random_state=0).fit(values, bunch.target)
    io.dump(made, tmp_path / "model.skops")
    used = int(np.argmax(made.feature_importances_))
    (tmp_path / "columns.json").write_text(json.dumps({names[used]: {"immutable": True}}))
    line = [*asked[2:], "--threat", "linf:6%", "--json"]
    model, rules = [tmp_path / "model.skops", "--access", access], ["--columns", tmp_path / "columns.json"]
    free = json.loads(trustbound("certify", "trees", *model, *line).out)["lower"]
    run = tmp_path / "run"
    done = trustbound("audit", *model, *line, *rules, "--budget", "quick", "--curve", 0, "--run", run)
    assert done.code in (0, 1), done.err
    (bracket,) = json.loads(done.out)["brackets"]
    assert 0 < free < bracket["lower"] <= bracket["upper"] < 1
    assert bracket["certified"] > 0 < bracket["broken"]
    found = [load_file(file) for file in (run / "adversarials").iterdir()]
    points = [point for held in found for point in held.get("adversarial", ())]
    assert points
    assert all(point[used] in values[:, used] for point in points)


def test_one_attack_and_one_proof_take_columns_too(tmp_path, trustbound):
    names, _, asked = written(tmp_path, load_wine(), rows=30)
    model = f"{tmp_path / 'net.py'}:make"
    upper = json.loads(trustbound("attack", "pgd", model, *asked, "--threat", "linf:0.5*std", "--json").out)
    lower = json.loads(trustbound("certify", "crown", model, *asked, "--threat", "linf:0.5*std", "--json").out)
    assert 0 < lower["lower"] <= upper["upper"] < 1
    (tmp_path / "columns.toml").write_text(f"[{names[0]}x]\nimmutable = true\n")
    told = trustbound("attack", "pgd", model, *asked, "--threat", "linf:5%", "--columns", tmp_path / "columns.toml")
    assert f"no column '{names[0]}x'" in told.error
    assert f"Did you mean '{names[0]}'" in told.error
    told = trustbound("attack", "fab", model, *asked, "--threat", "linf:5%")
    assert "radii that differ by column" in told.error
