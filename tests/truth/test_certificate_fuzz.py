"""A share of the certificate fuzz, and the faults that it must find when they are planted."""

import itertools
import json

import pytest
import torch
from benchmarks import fuzz_plants as plants
from benchmarks.certificate_fuzz import summarise, trial
from benchmarks.fuzz_lines import PRODUCTS_FROM, SMOOTH_FROM
from benchmarks.fuzz_networks import FAMILIES, make

SHARE, PARTS = 96, 4


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_certificate_breaks_on_random_networks(part):
    first = part * SHARE // PARTS
    found = summarise([trial(seed) for seed in range(first, first + SHARE // PARTS)])
    assert not found["findings"], json.dumps(found["findings"], indent=1)
    # Everything refused, or nothing certified, would be a test of nothing.
    served = [row["with_certificate"] for row in found["families"].values()]
    assert sum(served) >= 0.25 * found["networks"], found["families"]
    assert sum(row["attacked"] for row in found["families"].values()) > 5 * found["networks"]


def test_certificates_of_networks_with_smooth_activations_hold():
    records = [trial(seed) for seed in range(SMOOTH_FROM, SMOOTH_FROM + 16)]
    assert not [record for record in records if record["violations"] or "error" in record]
    lines = "\n".join(make(record["seed"]).text for record in records)
    assert sum(word in lines for word in ("sigmoid", "tanh", "silu", "gelu", "elu", "softplus", "abs")) > 2


def test_certificates_of_networks_with_products_and_shares_hold():
    records = [trial(seed) for seed in range(PRODUCTS_FROM, PRODUCTS_FROM + 4)]
    assert not [record for record in records if record["violations"] or "error" in record]
    assert sum(record.get("certified", 0) > 0 for record in records) > 1
    lines = "\n".join(make(record["seed"]).text for record in records)
    words = ("softmax", "_norm", "ConvTranspose", "dot_product", "h * h", "@", ".sin(", ".cos(", "square", "hard")
    assert sum(word in lines for word in words) > 2


@pytest.mark.parametrize(
    ("plant", "kinds", "seeds"),
    [
        (plants.unsound_relaxation, {"broken", "margin"}, range(500)),
        (plants.wrong_slope, {"broken", "margin"}, range(500)),
        (plants.forgotten_shift, {"broken", "margin"}, range(500)),
        (plants.forgotten_remainder, {"broken", "margin"}, range(PRODUCTS_FROM, PRODUCTS_FROM + 100)),
        (plants.low_shares, {"broken", "margin"}, range(PRODUCTS_FROM, PRODUCTS_FROM + 100)),
        (plants.lost_in_place, {"broken"}, range(500)),
        # Of the first 500 networks those that are made extreme: the others hold numbers of ordinary size.
        (plants.no_range, {"broken"}, range(FAMILIES.index("extreme"), 500, len(FAMILIES))),
        (plants.unknown_is_proven, {"broken"}, range(FAMILIES.index("extreme"), 500, len(FAMILIES))),
        (lambda: plants.less_rounding(1e-6), {"broken", "run"}, range(500)),
        (lambda: plants.less_rounding(0.0), {"broken"}, range(500)),
    ],
    ids=[
        "relaxation",
        "slope",
        "shift",
        "remainder",
        "shares",
        "in-place",
        "overflow",
        "NaN proven",
        "rounding ÷ 1e6",
        "no rounding",
    ],
)
def test_planted_faults_are_found(plant, kinds, seeds):
    with plant():
        for seed in seeds:
            record = trial(seed)
            assert "error" not in record, record
            if kinds & {found["kind"] for found in record["violations"]}:
                break
        else:
            pytest.fail(f"{len(seeds)} networks did not show the planted fault")
    assert not trial(seed)["violations"], "found without the plant too: it shows nothing"


def test_networks_are_functions_of_their_seed_and_of_every_kind():
    for seed, family in enumerate(FAMILIES):
        first, second = make(seed), make(seed)
        assert first.family == family
        assert first.lines == second.lines
        assert torch.equal(first.inputs, second.inputs)
        left, right = first.exact.state_dict(), second.exact.state_dict()
        assert all(torch.equal(left[name], right[name]) for name in left)
    cases = [make(seed) for seed in range(80)]
    precisions = set(itertools.chain.from_iterable(case.dtypes for case in cases))
    assert precisions == {"float64", "float32", "bfloat16", "float16"}
    assert any(len(case.dtypes) > 1 for case in cases)
    text = "\n".join(case.text for case in cases)
    assert all(word in text for word in (".clamp_(", "h[:, ", "torch.cat", "Conv2d", "BatchNorm", "max_pool2d"))
