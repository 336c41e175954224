"""What lies in the box: one rule, asked by searches, proofs, labelled sets and tables alike."""

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.region import Region
from trustbound.errors import InputError
from trustbound.metrics.in_box import outside, placed
from trustbound.record.box import Box
from trustbound.threat import NormBall

BOXES = [Box(0.0, 1.0), Box(-2.1, 2.64), Box(0.0, 255.0), Box(1000.0, 1000.5), Box([0.0, -3.0], [1e-3, 5.0])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", BOXES, ids=str)
def test_rounding_is_put_on_the_limit_and_more_is_refused(box, dtype):
    low = torch.as_tensor(box.low, dtype=dtype).expand(2)
    high = torch.as_tensor(box.high, dtype=dtype).expand(2)
    width = (high - low).double()
    inside = torch.stack([low, (low + high) / 2, high])
    assert placed(inside, box) is inside
    if dtype == torch.float64:
        little = torch.stack([low - 5e-7 * width, high + 5e-7 * width])
        assert torch.equal(placed(little, box), torch.stack([low, high]))
    for far in (low - 1e-3 * width, high + 1e-3 * width):
        assert outside(far.to(dtype)[None], box).all()
        with pytest.raises(InputError, match="must lie in the box"):
            placed(far.to(dtype)[None], box)


def test_a_wide_feature_lends_nothing_to_a_narrow_one():
    box = Box([0.0, 0.0], [1e-6, 1.0])
    inputs = torch.tensor([[1.5e-6, 0.5]])  # half a width outside; the widest feature's tolerance would hide it
    assert outside(inputs, box).tolist() == [[True, False]]
    model, labels = tb.wrap(nn.Linear(2, 2), box=box), torch.tensor([0])
    with pytest.raises(InputError, match="must lie in the box"):
        tb.attack("pgd", model, inputs, labels, "linf:0.1", steps=1)
    with pytest.raises(InputError, match="must lie in the box"):
        tb.certify("interval", model, inputs, labels, "linf:0.1")


@pytest.mark.parametrize("off", [5e-7, -5e-7, 9e-7, 3e-6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_search_and_proof_agree_about_inputs_beside_the_box(norm, dtype, off):
    model = tb.wrap(nn.Linear(4, 2).to(dtype), box=(0.0, 1.0))
    inputs = torch.full((3, 4), 0.5, dtype=dtype)
    inputs[0, 0] = 1.0 + off if off > 0 else off
    labels = model(inputs).argmax(dim=1)

    def answer(ask):
        try:
            return ask()
        except InputError as error:
            return str(error)

    found = answer(lambda: tb.attack("pgd", model, inputs, labels, f"{norm}:0.05", steps=4, stop_early=False))
    proof = answer(lambda: tb.certify("interval", model, inputs, labels, f"{norm}:0.05"))
    data = answer(lambda: tb.LabelledSet(inputs, labels))
    refused = ["must lie in the box" in one for one in (found, proof, data) if isinstance(one, str)]
    assert refused == ([True] * 3 if abs(off) > 1e-6 else [])
    if not refused:
        assert bool(((found.adversarial >= 0) & (found.adversarial <= 1)).all())
        # Whatever the search may reach is part of what the proof is about.
        radius = 0.05 + NormBall(norm, 0.05).tolerance(model.box, 4)
        region = Region.around(inputs, model.box, norm, radius)
        reached = found.adversarial.double()
        assert bool(((reached >= region.low) & (reached <= region.high)).all())
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        assert bool((torch.linalg.vector_norm(reached - region.inputs, order, dim=1) <= radius).all())
        assert torch.equal(region.inputs, data.inputs.double()) or dtype == torch.float64
        # Standing still is allowed, also for an input that had to be moved.
        still = tb.attack("pgd", model, inputs, labels, f"{norm}:0", steps=2, stop_early=False)
        assert torch.equal(still.adversarial, inputs.clamp(0, 1))


def test_a_proof_holds_around_the_input_and_where_the_search_rounds_it_to(monkeypatch):
    box = Box(1000.0, 1001.0)
    inputs = torch.full((1, 2), 1000.1, dtype=torch.float64)  # 2.4e-5 from the nearest float32: far more than τ
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    edge = float(torch.tensor(1000.1)) - 1000.1  # where float32 puts it
    assert abs(edge) > 1e-5
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(weight)
        net.bias.copy_(torch.tensor([-1000.0, 0.0]))
    seen = {}
    kept = Region.around

    def noted(*arguments):
        seen["region"] = kept(*arguments)
        return seen["region"]

    monkeypatch.setattr(Region, "around", noted)
    tb.certify("interval", tb.wrap(net, box=box), inputs, torch.tensor([0]), "linf:1e-7")
    # Around the input as it is given and around the one that the search starts from.
    for centre in (inputs, inputs.float().double()):
        assert bool((seen["region"].low <= centre - 1e-7).all())
        assert bool((seen["region"].high >= centre + 1e-7).all())


def test_a_table_and_a_labelled_set_follow_the_same_rule(tmp_path):
    for off, good in ((5e-7, True), (1e-4, False)):
        path = tmp_path / "t.csv"
        path.write_text(f"a,label\n{1 + off:.9f},0\n0.25,1\n")
        if good:
            assert tb.load_data(path, box=(0, 1)).inputs.tolist() == [[1.0], [0.25]]
            assert tb.LabelledSet(np.array([[1 + off]]), [0]).inputs.tolist() == [[1.0]]
        else:
            with pytest.raises(InputError, match="line 2, column 'a'"):
                tb.load_data(path, box=(0, 1))
            with pytest.raises(InputError, match="must lie in the box"):
                tb.LabelledSet(np.array([[1 + off]]), [0])


@pytest.mark.parametrize("limits", [([0.0] * 3, [1.0] * 3), ([[0.0]] * 2, [[1.0]] * 2), (0.0, [1.0] * 5)])
def test_a_box_of_other_features_is_refused_by_search_and_proof(limits):
    model = tb.wrap(nn.Linear(4, 3), box=limits)
    inputs, labels = torch.rand(2, 4), torch.tensor([0, 1])
    for ask in (tb.attack, tb.certify):
        with pytest.raises(InputError, match=r"limits for the features \(4,\) of one input; got limits of shape"):
            ask("pgd" if ask is tb.attack else "crown", model, inputs, labels, "linf:0.1")
    with pytest.raises(InputError, match="limits for the features"):
        read(model, inputs)
