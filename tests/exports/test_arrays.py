"""The arrays, judged with NumPy and torch alone: sizes in float64, verdicts by the network's own weights."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import trustbound as tb
from trustbound.cli.main import cli


@pytest.fixture(scope="session")
def arrays(audited):
    tb.export(audited.run, npz=audited.folder / "a.npz", data=audited.data)
    with np.load(audited.folder / "a.npz", allow_pickle=False) as held:
        return dict(held)


def logits(weights, inputs):
    """The network by hand in float64: flatten, linear, ReLU, linear."""
    tensors = [value.double().numpy() for _, value in sorted(load_file(weights).items())]
    (first, second), (one, two) = ([t for t in tensors if t.ndim == n] for n in (2, 1))
    if first.shape[1] != 64:
        first, second = second, first
    if len(one) != len(first):
        one, two = two, one
    return np.maximum(inputs.reshape(len(inputs), -1).astype(np.float64) @ first.T + one, 0) @ second.T + two


def test_sizes_and_verdicts_by_hand_are_those_of_the_file(audited, arrays):
    labels, rows = arrays["labels"], [row for row in audited.record.examples if row.threat == "linf:0.1"]
    assert arrays["rows"].tolist() == list(audited.record.data.indices)
    assert np.array_equal(arrays["inputs"], audited.data.inputs.numpy())
    assert arrays["threats"].tolist() == ["linf:0.1", "rotation:20"]
    clean = logits(audited.weights, arrays["inputs"])
    assert clean.argmax(1).tolist() == arrays["predictions"].tolist()
    change = np.abs(arrays["adversarial"][0].astype(np.float64) - arrays["inputs"].astype(np.float64))
    sizes = change.reshape(len(labels), -1).max(1)
    broken = arrays["broken"][0]
    assert 0 < broken.sum() < len(broken)
    assert np.allclose(sizes[broken], arrays["sizes"][0][broken], rtol=0, atol=1e-12)
    assert (sizes[broken] <= 0.1 + 1e-6).all()
    assert np.isnan(arrays["sizes"][0][~broken]).all()
    assert (sizes[~broken] == 0).all()
    for number in (0, 1):
        wrong = logits(audited.weights, arrays["adversarial"][number]).argmax(1) != labels
        assert np.array_equal(wrong, np.isin(arrays["verdicts"][number], ["broken", "misclassified"]))
    assert arrays["verdicts"][0].tolist() == [row.verdict for row in rows]
    assert 1 - np.mean(wrong) == pytest.approx(audited.record.brackets[1].upper)


def test_angles_are_beside_what_they_make(arrays):
    theta = arrays["theta_1"]
    assert np.array_equal(np.isfinite(theta).all(1), arrays["broken"][1])
    assert np.allclose(np.abs(theta[arrays["broken"][1]]).max(1), arrays["sizes"][1][arrays["broken"][1]])
    assert "theta_0" not in arrays


def test_data_that_is_another_is_refused_and_data_that_holds_it_is_not(audited, tmp_path):
    with pytest.raises(tb.InputError, match="does not hold them"):
        tb.export(audited.run, npz=tmp_path / "a.npz", data=tb.load_data("digits", split="train"))
    assert not list(tmp_path.iterdir())
    tb.export(audited.run, npz=tmp_path / "a.npz", data=tb.load_data("digits"))
    assert (tmp_path / "a.npz").read_bytes() == (audited.folder / "a.npz").read_bytes() or np.array_equal(
        np.load(tmp_path / "a.npz")["adversarial"], np.load(audited.folder / "a.npz")["adversarial"]
    )


def test_a_witness_that_was_changed_or_lost_is_noticed(audited, tmp_path):
    run = shutil.copytree(audited.run, tmp_path / "run")
    kept = sorted((run / "adversarials").glob("linf*.safetensors"))
    held = {path: load_file(path) for path in kept}
    for path, tensors in held.items():
        if "adversarial" in tensors:
            save_file({**tensors, "adversarial": (tensors["adversarial"] * 0.5).contiguous()}, path)
    with pytest.raises(tb.RecordError, match=r"must measure 0\.09999.* it measures .* damaged"):
        tb.export(run, npz=tmp_path / "a.npz", data=audited.data)
    for path in kept:
        path.unlink()
    with pytest.raises(tb.RecordError, match=r"lacks the adversarial inputs of .* Restore its folder"):
        tb.export(run, npz=tmp_path / "a.npz", data=audited.data)
    assert not (tmp_path / "a.npz").exists()


def test_a_run_in_which_nothing_was_broken_has_its_clean_inputs_twice(tmp_path):
    net = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(net.weight)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([1.0, -1.0]))
    data = tb.LabelledSet(torch.rand(5, 3), [0, 0, 0, 1, 0])
    tb.audit(net, data, ["linf:0.1"], budget="quick", curve_examples=0, run=tmp_path / "run")
    (written,) = tb.export(tmp_path / "run", npz=tmp_path / "a.npz", data=data)
    assert written.said == "5 examples, 0 adversarial inputs"
    held = np.load(tmp_path / "a.npz")
    assert np.array_equal(held["adversarial"][0], held["inputs"])
    assert held["verdicts"][0].tolist() == ["certified"] * 3 + ["misclassified", "certified"]
    with pytest.raises(tb.UnsupportedError, match="inputs of shape"):
        tb.export(tmp_path / "run", png=tmp_path / "pictures", data=data)


def test_a_table_in_units_of_its_columns_is_measured_by_the_radii_of_the_record(tmp_path, monkeypatch):
    """By its own command and without its model, whose file is executed to be loaded: nothing of it is needed here."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).uniform([0, 10, 0], [1, 50, 9], (40, 3)).round(2)
    values[:, 2] = values[:, 2].round()
    net = torch.nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[4.0, 0.1, 0.3], [0.0, 0.0, 0.0]]))
        net.bias.copy_(torch.tensor([-6.0, 0.0]))
        labels = net(torch.from_numpy(values).float()).argmax(1).tolist()
    lines = [",".join(map(str, [*row, label])) for row, label in zip(values.tolist(), labels, strict=True)]
    (tmp_path / "t.csv").write_text("a,b,c,kind\n" + "\n".join(lines) + "\n")
    rules = {"a": {"immutable": True}, "c": {"integer": True, "radius": 2}}
    data = tb.load_data("t.csv", label_column="kind")
    threat = tb.Threat.parse("linf:10%").resolved(data, rules)
    command = "trustbound audit gone.py:make --data t.csv --label-column kind --threat linf:10% --columns rules.toml"
    tb.audit(tb.wrap(net, box=data.box), data, [threat], budget="quick", curve_examples=0, run="run", command=command)
    done = CliRunner().invoke(cli, ["export", "run", "--npz", "a.npz"])
    assert done.exit_code == 0, done.output
    with np.load("a.npz") as held:
        broken, change = held["broken"][0], (held["adversarial"][0].astype(float) - held["inputs"])[held["broken"][0]]
        whole, sizes = held["adversarial"][0][:, 2], held["sizes"][0][broken]
    assert 0 < broken.sum() < 40
    span = np.ptp(values[:, 1])
    assert (change[:, 0] == 0).all()
    assert (np.abs(change[:, 1]) <= 0.1 * span * (1 + 1e-4)).all()
    assert (np.abs(change[:, 2]) <= 2).all()
    assert np.array_equal(whole, whole.round())
    assert (sizes <= 0.1 * (1 + 1e-4)).all()
