"""Networks as people write them: audited with a bracket that holds, or refused in one sentence. Never a traceback."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.audits import user_models as user
from tests.audits.known import linear
from torch import nn

import trustbound as tb
from trustbound.cli.main import main
from trustbound.errors import TrustboundError
from trustbound.model.float64_copy import double
from trustbound.model.wrapping import wrap
from trustbound.record.audit import VERDICTS

KNOWN = linear(low=0.45, high=0.55, n=10, wrong=2)
WEIGHT, BIAS = (tensor.detach() for tensor in KNOWN.exact.model.module.parameters())

#: A TorchScript or int8 module warns of its own age.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def around(kind, **options):
    return wrap(kind(WEIGHT, BIAS).eval(), **options)


def scripted():
    return wrap(torch.jit.script(user.Around(WEIGHT, BIAS).eval()))


def traced():
    return wrap(torch.jit.trace(user.Around(WEIGHT, BIAS).eval(), torch.rand(2, user.FEATURES)))


def compiled():
    return wrap(torch.compile(user.Around(WEIGHT, BIAS).eval(), backend="eager"))


#: The same function as the known classifier, however it is written: the bracket must hold the truth.
SAME = {
    "plain": lambda: around(user.Around),
    "casts in": lambda: around(user.CastsIn),
    "casts out": lambda: around(user.CastsOut),
    "half out": lambda: around(user.HalvesOut),
    "fixed kernel": lambda: around(user.FixedKernel),
    "numpy inside": lambda: around(user.NumpyInside),
    "tuple": lambda: around(user.ReturnsTuple, output=0),
    "list": lambda: around(user.ReturnsList, output=1),
    "dict": lambda: around(user.ReturnsDict, output="logits"),
    "dataclass": lambda: around(user.ReturnsDataclass, output="logits"),
    "namedtuple": lambda: around(user.ReturnsNamedtuple, output="logits"),
    "data parallel": lambda: wrap(nn.DataParallel(user.Around(WEIGHT, BIAS).eval())),
    "compiled": compiled,
    "scripted": scripted,
    "traced": traced,
    "raises in backward": lambda: around(user.RaisesInBackward),
    "raises in float64": lambda: around(user.RaisesInFloat64),
    "maps": lambda: around(user.Maps, output=lambda maps: maps.flatten(1)),
    "requires grad": lambda: around(user.RequiresGrad),
    "no grad": lambda: around(user.NoGrad),
    "inference mode": lambda: around(user.Inference),
    "detached": lambda: around(user.Detached),
    "float64": lambda: wrap(user.Around(WEIGHT, BIAS).double().eval()),
    "complex inside": lambda: around(user.Complex),
    "hooks": lambda: wrap(user.hooked(user.Around(WEIGHT, BIAS).eval())),
    "writes into its inputs": lambda: around(user.WritesIntoInputs),
    "keeps state": lambda: around(user.KeepsState),
    "drifts by a shift": lambda: around(user.Drifts),
}

#: Other functions: the record must be sane.
OTHER = {
    "int8": lambda: wrap(user.int8(user.Around(WEIGHT, BIAS).eval())),
    "GRU": lambda: wrap(user.Recurrent(nn.GRU).eval()),
    "LSTM": lambda: wrap(user.Recurrent(nn.LSTM).eval()),
    "batch norm in training": lambda: wrap(user.BatchNormInTraining(WEIGHT, BIAS).train()),
    "depends on the batch": lambda: around(user.DependsOnTheBatch),
    "bfloat16": lambda: wrap(user.Around(WEIGHT, BIAS).bfloat16().eval()),
    "float16": lambda: wrap(user.Around(WEIGHT, BIAS).half().eval()),
    "no parameters": lambda: wrap(user.NoParameters()),
    "random": lambda: around(user.Random),
    "random beyond seeds": lambda: around(user.RandomOutside),
    "raises inside the ball": lambda: around(user.RaisesInsideTheBall),
    "NaN inside the ball": lambda: around(user.NanOutside),
    "two classes": lambda: wrap(user.Wide(2).eval()),
    "1,000 classes": lambda: wrap(user.Wide(1000).eval()),
}

#: What cannot be used, and what the one sentence must say.
REFUSED = {
    "tuple, unsaid": (lambda: around(user.ReturnsTuple), "output="),
    "dict, unsaid": (lambda: around(user.ReturnsDict), "keys .*logits.*output="),
    "sequence first": (lambda: around(user.SequenceFirst), "axis 0.*Put the batch first"),
    "always raises": (lambda: around(user.AlwaysRaises), "KeyError.*no such layer"),
    "large batches": (lambda: around(user.RaisesOnLargeBatches), "batches of at most 8.*batch.size"),
    "bytes wanted": (lambda: around(user.WantsBytes), "expected uint8"),
    "list of tensors wanted": (lambda: around(user.ListOfTensors), "must (return logits|accept inputs)"),
    "channels last": (lambda: around(user.ChannelsLast), "must accept inputs of shape"),
    "one logit": (lambda: wrap(user.OneLogit().eval()), "torch.stack"),
    "maps, unsaid": (lambda: around(user.Maps), "flatten"),
    "complex out": (lambda: around(user.ComplexOut), "floating point; got .*complex64"),
    "meta": (lambda: wrap(user.meta(user.Around(WEIGHT, BIAS))), "meta device"),
}


def data_for(model):
    if model.module.__class__.__name__ != "Wide":
        return KNOWN.data
    with torch.no_grad():
        return tb.LabelledSet(KNOWN.data.inputs, model(KNOWN.data.inputs).argmax(1))


def audited(model, data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, about what these modules do
        return tb.audit(model, data, [KNOWN.threat], budget="quick", curve_examples=0, **options)


def sane(record, n):
    (bracket,) = record.brackets
    assert 0.0 <= bracket.lower <= bracket.upper <= record.clean_accuracy <= 1.0
    assert len(record.examples) == bracket.n == n
    assert {row.verdict for row in record.examples} <= set(VERDICTS)
    assert sum((bracket.certified, bracket.broken, bracket.misclassified, bracket.unknown)) == n
    assert record.exit_code in (0, 3)
    assert bracket.certified or bracket.no_proof or bracket.unknown == 0 or record.checks
    for row in record.examples:
        assert 0.0 < row.confidence <= 1.0
    said = json.dumps([list(record.events), [check.finding for check in record.checks], list(record.model.notes)])
    assert "Traceback" not in said
    return bracket


@pytest.mark.parametrize("name", SAME)
def test_the_bracket_holds_the_truth(name):
    model = SAME[name]()
    bracket = sane(audited(model, KNOWN.data), len(KNOWN.data))
    assert bracket.lower <= KNOWN.truth <= bracket.upper
    assert bracket.misclassified == int((~KNOWN.correct).sum())
    if name not in ("numpy inside", "no grad", "inference mode", "detached", "raises in backward", "requires grad"):
        assert bracket.upper == KNOWN.truth  # gradients reach the inputs: everything that can be broken is


@pytest.mark.parametrize("name", OTHER)
def test_other_functions_give_a_sane_record(name):
    model = OTHER[name]()
    sane(audited(model, data_for(model)), len(KNOWN.data))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(name):
    build, words = REFUSED[name]
    calls = [
        lambda: audited(build(), KNOWN.data),
        lambda: tb.attack("pgd", build(), KNOWN.data.inputs, KNOWN.data.labels, KNOWN.threat),
    ]
    for call in calls:
        with pytest.raises(TrustboundError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_attacks_and_certificates_end_in_a_result_or_in_one_sentence(name):
    model = {**SAME, **OTHER}[name]()
    data = data_for(model)
    for call in (
        lambda: tb.attack("pgd", model, data.inputs, data.labels, KNOWN.threat, steps=3),
        lambda: tb.certify("crown", model, data.inputs, data.labels, tb.Threat.parse(KNOWN.threat)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                found = call()
            except TrustboundError as error:
                found, said = None, str(error)
        if found is None:
            assert "\n" not in said
            continue
        if name in SAME and hasattr(found, "success"):
            assert not bool((found.success & KNOWN.robust).any())
        elif name in SAME:
            assert not bool((found.certified & ~KNOWN.robust).any())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain", ""),
        ("half out", ""),
        ("casts out", ""),
        ("no parameters", ""),
        ("casts in", "raises RuntimeError"),
        ("fixed kernel", "raises RuntimeError"),
        ("numpy inside", "raises RuntimeError"),
        ("raises in float64", "raises TypeError: Got unsupported ScalarType Double"),
        ("int8", "raises"),
        ("GRU", "raises"),
    ],
)
def test_a_copy_in_float64_is_tried(name, words):
    model = {**SAME, **OTHER}[name]()
    state = torch.random.get_rng_state()
    found = double(model, KNOWN.data.inputs[:2])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (found.model is None) == bool(words)
    assert words in found.reason
    assert "\n" not in found.reason
    if found.model is not None:
        assert found.model.dtype == torch.float64
        assert torch.allclose(found.model(KNOWN.data.inputs).float(), model(KNOWN.data.inputs).float(), atol=1e-2)


def test_that_there_is_no_copy_is_said_and_ties_are_those_of_the_model():
    record = audited(SAME["fixed kernel"](), KNOWN.data)
    (said,) = (note for note in record.model.notes if note.startswith("no float64 copy"))
    assert "raises RuntimeError" in said
    assert "in the model's own precision, float32" in said
    assert record.brackets[0].broken > 0
    assert not audited(SAME["plain"](), KNOWN.data).model.notes


@pytest.mark.parametrize(("name", "precision"), [("bfloat16", "bfloat16"), ("float16", "float16")])
def test_narrow_models_say_in_which_precision_they_are_measured(name, precision):
    model = OTHER[name]()
    record = audited(model, KNOWN.data)
    assert any(precision in note for note in record.model.notes)
    # Sound in its own precision: what is certified withstands every attack on the module as it runs.
    places = torch.tensor([row.verdict == "certified" for row in record.examples])
    found = tb.attack("pgd", model, KNOWN.data.inputs, KNOWN.data.labels, KNOWN.threat, restarts=5)
    assert not bool((found.success & places).any())
    bracket = record.brackets[0]
    assert bracket.certified or bracket.rounded == 0 or "lost to rounding" in bracket.no_proof


def test_inputs_that_raise_break_their_examples_and_are_noted():
    record = audited(OTHER["raises inside the ball"](), KNOWN.data)
    reached = KNOWN.correct & (KNOWN.data.inputs[:, 0] + float(KNOWN.threat.partition(":")[2]) > 0.7)
    assert bool(reached.any()) == any("sensor out of range" in event for event in record.events)
    verdicts = [row.verdict for row in record.examples]
    for place, verdict in enumerate(verdicts):
        if verdict == "broken":
            assert bool(reached[place]) or not bool(KNOWN.robust[place])


def test_a_wide_ball_reaches_what_raises():
    model = OTHER["raises inside the ball"]()
    record = tb.audit(model, KNOWN.data, ["linf:0.4"], budget="quick", curve_examples=0)
    bracket = record.brackets[0]
    assert bracket.upper == 0.0
    assert bracket.unanswered > 0
    assert any("AssertionError: sensor out of range" in event for event in record.events)
    assert any("an exception" in event for event in record.events)


def test_a_batch_that_is_too_large_for_the_model_is_a_matter_of_the_batch_size():
    with pytest.raises(TrustboundError, match=r"asked by clean about 10 examples, .*shape \(10, 6\)"):
        audited(around(user.RaisesOnLargeBatches), KNOWN.data)
    record = audited(around(user.RaisesOnLargeBatches), KNOWN.data, batch_size=8)
    assert record.brackets[0].upper == KNOWN.truth


def test_a_refused_run_keeps_its_evidence_and_goes_on(tmp_path):
    model = around(user.RaisesOnLargeBatches)
    asked = {"run": tmp_path / "run"}
    with pytest.raises(TrustboundError):
        audited(model, KNOWN.data, **asked)
    assert (tmp_path / "run" / "audit.sqlite").exists()
    model.module.forward = user.Around.forward.__get__(model.module)
    record = audited(model, KNOWN.data, **asked)
    assert record.brackets[0].upper == KNOWN.truth


SPEC = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.audits import test_user_models as own

def build(name="plain"):
    known = {{**own.SAME, **own.OTHER}}
    return known[name]().module if name in known else own.REFUSED[name][0]().module
"""


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("casts in", 0, ""),
        ("raises in float64", 0, ""),
        ("numpy inside", 3, "not to be trusted"),
        ("always raises", 2, "no such layer"),
        ("large batches", 2, "batch_size"),
        ("one logit", 2, "torch.stack"),
    ],
)
def test_exit_codes_are_as_documented(name, code, words, tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[2]
    spec = tmp_path / "nets.py"
    spec.write_text(SPEC.format(root=str(root)))
    archive = tmp_path / "data.npz"
    np.savez(archive, x_test=KNOWN.data.inputs.numpy(), y_test=KNOWN.data.labels.numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "trustbound",
            "audit",
            f"{spec}:build",
            "--arguments",
            json.dumps({"name": name}),
            "--data",
            str(archive),
            "--threat",
            KNOWN.threat,
            "--budget",
            "quick",
            "--curve",
            "0",
        ],
    )
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capsys.readouterr()
    assert caught.value.code == code, shown.err
    assert words in " ".join((shown.out + shown.err).split())
    assert "Traceback" not in shown.err
    if code == 2:
        assert sum(line.startswith("error: ") for line in shown.err.splitlines()) == 1
        assert shown.err.splitlines()[-1].startswith("error: ")
