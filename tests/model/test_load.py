"""Loading: the same logits come back from every kind of file, and bad files say what is wrong."""

import json
import os
import struct
import sys
import zipfile

import pytest
import torch
from torch import nn

from trustbound.errors import InputError
from trustbound.model import build, load_model, save_model
from trustbound.model.files.origin import sha256_of
from trustbound.model.files.recognising import recognise
from trustbound.model.wrapping import wrap
from trustbound.record.box import Box

INPUTS = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = {"input_shape": (1, 8, 8), "classes": 4}


@pytest.fixture
def network():
    return build("cnn-small", seed=1, **SMALL).eval()


def test_saved_models_come_back_whole(tmp_path):
    module = build("fc", seed=3, widths=[7, 5], activation="gelu", **SMALL)
    model = wrap(module, box=(-1.0, 2.0), mean=[0.25], std=[0.5])
    path = save_model(model, tmp_path / "deep" / "w.safetensors", class_names=["a", "b", "c", "d"])
    before = torch.get_rng_state()
    for spec, options in [
        (f"fc:{path}", {}),
        ("fc", {"weights": path}),
        (str(path), {}),
        (path, {}),
    ]:
        back = load_model(spec, **options)
        assert torch.equal(back(INPUTS), model.eval()(INPUTS))
        assert not back.training
        assert not back.module.training
        assert back.box == Box(-1.0, 2.0)
        assert back.input_shape == (1, 8, 8)
        assert back.classes == 4
        assert back.sha256 == sha256_of(path)
        assert back.origin.files == ((str(path), sha256_of(path)),)
        assert back.origin.executed == ()
    assert torch.equal(torch.get_rng_state(), before)
    changed = load_model(f"fc:{path}", mean=[0.0], box=(0, 1))
    assert changed.mean.tolist() == [0.0]
    assert changed.box == Box(0.0, 1.0)
    assert sorted(p.name for p in path.parent.iterdir()) == ["w.safetensors"], "no part file is left"


def test_box_per_feature_survives_the_file(tmp_path):
    box = Box(torch.zeros(4).double().numpy(), torch.arange(1, 5).double().numpy())
    model = wrap(build("fc", widths=[3], input_shape=[4], classes=2), box=box)
    assert load_model(save_model(model, tmp_path / "w.safetensors")).box == box


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "model", "net", "model_state_dict", "two deep"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_in_every_common_form(tmp_path, network, wrapping, prefix):
    held = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    if wrapping == "two deep":
        held = {"model": {"state_dict": held}, "epoch": 3}
    elif wrapping != "plain":
        held = {"epoch": 3, "optimizer": {"lr": 0.1}, wrapping: held}
    torch.save(held, tmp_path / "w.pt")
    back = load_model(f"cnn-small:{tmp_path / 'w.pt'}", arguments=json.dumps(SMALL))
    assert torch.equal(back(INPUTS), network(INPUTS))


def test_bare_safetensors_and_legacy_checkpoints(tmp_path, network):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth"):
        back = load_model(f"cnn-small:{tmp_path / name}", arguments=SMALL)
        assert torch.equal(back(INPUTS), network(INPUTS))
    with pytest.raises(InputError, match="without the name of their architecture"):
        load_model(tmp_path / "w.safetensors")


def test_a_module_whose_own_names_have_the_prefix_keeps_them(tmp_path):
    module = nn.Sequential()
    module.add_module("module", nn.Linear(3, 2))
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Sequential()\n"
        "    net.add_module('module', nn.Linear(3, 2))\n"
        "    return net\n"
    )
    torch.save(module.state_dict(), tmp_path / "w.pt")
    back = load_model(f"{tmp_path / 'own.py'}:make", weights=tmp_path / "w.pt")
    assert torch.equal(back.module.module.weight, module.module.weight)


class _Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_unrun_unless_it_is_trusted(tmp_path, network, legacy):
    proof = tmp_path / "ran"
    held = {"state_dict": network.state_dict(), "hook": _Bomb(proof)}
    path = tmp_path / "w.pt"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"pickled code \([\w.]*mkdir\).*--trust-pickle"):
        load_model(f"cnn-small:{path}", arguments=SMALL)
    assert not proof.exists()
    back = load_model(f"cnn-small:{path}", arguments=SMALL, trust_pickle=True)
    assert proof.exists(), "the bomb must be a real one"
    assert torch.equal(back(INPUTS), network(INPUTS))
    assert back.origin.executed == ("the pickle, which was trusted",)


def test_whole_pickled_modules_need_trust(tmp_path, network):
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"pickled code \(torch.nn.*--trust-pickle"):
        load_model(tmp_path / "whole.pt")
    back = load_model(tmp_path / "whole.pt", trust_pickle=True)
    assert torch.equal(back(INPUTS), network(INPUTS))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["w.safetensors", "new.pt", "old.pt"])
def test_truncated_weights_are_named(tmp_path, network, kind, share):
    path = tmp_path / kind
    if kind == "w.safetensors":
        save_model(network, path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=kind == "new.pt")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError, match=r"truncated, damaged or no|is empty"):
        load_model(f"cnn-small:{path}", arguments=SMALL)


def test_weights_that_do_not_fit_are_listed(tmp_path, network):
    state = network.state_dict()
    first = next(iter(state))
    renamed = {("extra.weight" if name == first else name): tensor for name, tensor in state.items()}
    torch.save(renamed, tmp_path / "w.pt")
    with pytest.raises(InputError, match=rf"missing: {first}; unexpected: extra\.weight"):
        load_model(f"cnn-small:{tmp_path / 'w.pt'}", arguments=SMALL)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"wrong shapes: .*needs \(10, 100\), got \(4, 100\)"):
        load_model(f"cnn-small:{tmp_path / 'w.pt'}", arguments={**SMALL, "classes": 10})
    torch.save({"a": 1, "b": [2]}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"named tensors.*got keys \['a', 'b'\]"):
        load_model(f"cnn-small:{tmp_path / 'w.pt'}")
    state[first] = state[first] * float("nan")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InputError, match="NaN or infinite"):
        load_model(f"cnn-small:{tmp_path / 'w.pt'}", arguments=SMALL)
    saved = save_model(network, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="weights of 'cnn-small'; got the architecture 'fc'"):
        load_model(f"fc:{saved}")


FACTORY = """
import dataclasses
from torch import nn
from sibling import SIZE
@dataclasses.dataclass
class Numbers:
    classes: int = 4
def make(classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, Numbers(classes).classes))
def fails():
    raise RuntimeError("no such thing")
def wrong():
    return 3
"""


def test_python_files_are_executed_with_their_siblings_and_arguments(tmp_path):
    (tmp_path / "made.py").write_text(FACTORY)
    (tmp_path / "sibling.py").write_text("SIZE = 64\n")
    spec = f"{tmp_path / 'made.py'}:make"
    before_path, before_rng = list(sys.path), torch.get_rng_state()
    model = load_model(spec, arguments='{"classes": 6}')
    assert model(INPUTS).shape == (6, 6)
    assert sys.path == before_path
    assert torch.equal(torch.get_rng_state(), before_rng)
    assert model.origin.executed == (spec,)
    assert model.origin.files[0] == (str(tmp_path / "made.py"), sha256_of(tmp_path / "made.py"))
    assert load_model(spec, arguments='{"classes": 6}').sha256 == model.sha256
    torch.rand(1)
    assert load_model(spec, arguments='{"classes": 6}').sha256 != model.sha256, "fresh weights, another model"
    torch.save(model.module.state_dict(), tmp_path / "w.pt")
    back = load_model(spec, arguments={"classes": 6}, weights=tmp_path / "w.pt", mean=[0.5])
    assert torch.equal(back(INPUTS), model(INPUTS - 0.5))
    assert [digest for _, digest in back.origin.files] == [sha256_of(tmp_path / name) for name in ("made.py", "w.pt")]
    assert back.sha256 == load_model(spec, arguments={"classes": 6}, weights=tmp_path / "w.pt").sha256
    for function, said in [
        ("fails", "RuntimeError: no such thing"),
        ("wrong", "got int"),
        ("absent", "there is none of that name"),
    ]:
        with pytest.raises(InputError, match=said):
            load_model(f"{tmp_path / 'made.py'}:{function}")
    with pytest.raises(InputError, match="unexpected keyword"):
        load_model(spec, arguments={"width": 1})
    (tmp_path / "broken.py").write_text("x = = 3")
    with pytest.raises(InputError, match="SyntaxError"):
        load_model(f"{tmp_path / 'broken.py'}:make")
    with pytest.raises(InputError, match="does not exist"):
        load_model(f"{tmp_path / 'absent.py'}:make")
    sys.modules.pop("sibling", None)


def test_installed_functions():
    model = load_model("torch.nn:Linear", arguments={"in_features": 3, "out_features": 2})
    assert model(torch.rand(4, 3)).shape == (4, 2)
    assert model.origin.executed == ("torch.nn:Linear",)
    with pytest.raises(InputError, match=r"'no_such_package\.models' cannot be imported.*path/file\.py:function"):
        load_model("no_such_package.models:net")


def _exported(network, path, dynamic=True):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (INPUTS[:2],), dynamic_shapes=shapes), path)
    return path


def test_exported_programs_and_torchscript_give_the_same_logits(tmp_path, network):
    _exported(network, tmp_path / "a.pt2")
    torch.jit.save(torch.jit.trace(network, INPUTS[:2]), tmp_path / "script.pt")
    for name, kind in (("a.pt2", "torch-export"), ("script.pt", "torchscript")):
        assert recognise(tmp_path / name) == kind
        model = load_model(tmp_path / name)
        assert torch.allclose(model(INPUTS), network(INPUTS), atol=1e-6)
        assert model.origin.executed == (f"the program in {tmp_path / name}",)
        model.eval().train().eval()
        points = INPUTS.clone().requires_grad_()
        model(points).sum().backward()
        assert bool((points.grad != 0).any())
        with pytest.raises(InputError, match="neither arguments nor weights"):
            load_model(tmp_path / name, arguments={"classes": 3})
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        with pytest.raises(InputError, match=r"truncated|damaged"):
            load_model(tmp_path / name)


def test_programs_for_one_batch_size_are_refused_with_the_remedy(tmp_path, network):
    with pytest.raises(InputError, match=r"batches of exactly 2.*dynamic_shapes"):
        load_model(_exported(network, tmp_path / "a.pt2", dynamic=False))


def test_pickles_inside_an_exported_program_never_run_without_trust(tmp_path, network):
    proof = tmp_path / "ran"
    clean, path = _exported(network, tmp_path / "clean.pt2"), tmp_path / "bomb.pt2"
    torch.save((_Bomb(proof),), tmp_path / "payload.pt")
    with zipfile.ZipFile(clean) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            raw = source.read(name)
            if "sample_inputs" in name:
                raw = (tmp_path / "payload.pt").read_bytes()
            target.writestr(name.replace("clean/", "bomb/", 1), raw)
    with pytest.raises(InputError, match=r"sample_inputs.*--trust-pickle"):
        load_model(path)
    assert not proof.exists()


def test_unknown_specs_say_what_a_model_can_be(tmp_path):
    for spec, said in [
        ("cnn-smal:w.pt", "Did you mean 'cnn-small'"),
        ("nowhere.safetensors", "which is none of these or does not exist"),
        ("cnn-small", "needs its weights once"),
        ("cnn-small:nowhere.safetensors", "does not exist"),
        ("cnn-small:nowhere.pt", "does not exist"),
    ]:
        with pytest.raises(InputError, match=said):
            load_model(spec)
    (tmp_path / "junk.pt").write_text("hello")
    with pytest.raises(InputError, match="is a text file, no model"):
        load_model(tmp_path / "junk.pt")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="weights alone"):
        load_model(tmp_path / "w.pt")


def test_options_are_checked(tmp_path, network):
    path = save_model(network, tmp_path / "w.safetensors")
    for options, said in [
        ({"arguments": "{"}, "JSON object"),
        ({"arguments": "[1]"}, "mapping"),
        ({"arguments": {"depth": 3}}, "takes input_shape"),
        ({"device": "warp:9"}, "device"),
        ({"std": [0.0]}, "`std`"),
        ({"weights": path}, "needs its weights once"),
    ]:
        with pytest.raises(InputError, match=said):
            load_model(f"cnn-small:{path}", **options)


def test_save_refuses_and_leaves_nothing_behind(tmp_path, network):
    with pytest.raises(InputError, match="safetensors"):
        save_model(network, tmp_path / "w.pt")
    with pytest.raises(InputError, match="JSON"):
        save_model(network, tmp_path / "w.safetensors", arguments={"a": object()})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_model(network, tmp_path / "file" / "w.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_notes_of_a_newer_version_are_not_guessed_at(tmp_path, network):
    path = save_model(network, tmp_path / "w.safetensors")
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + size].replace(rb"\"format\": 1", rb"\"format\": 9")
    assert header != raw[8 : 8 + size]
    path.write_bytes(raw[:8] + header + raw[8 + size :])
    with pytest.raises(InputError, match=r"newer trustbound \(format 9\)"):
        load_model(path)


@pytest.mark.parametrize("where", ["at import", "in the function"])
@pytest.mark.parametrize("what", ["sys.exit(0)", "sys.exit('bye')", "1 / 0", "raise SystemExit"])
def test_code_of_a_model_that_ends_the_program_is_an_error(tmp_path, monkeypatch, what, where):
    """An exit with 0 would read as an audit that was done."""
    before, inside = (what, "pass") if where == "at import" else ("", what)
    name = f"ends_{abs(hash((what, where)))}"
    (tmp_path / f"{name}.py").write_text(f"import sys\n{before}\ndef net():\n    {inside}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (f"{tmp_path / name}.py:net", f"{name}:net"):
        with pytest.raises(InputError, match=r"failed.*(SystemExit|ZeroDivisionError)"):
            load_model(spec)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"box": "ab"}, r"must be \[low, high\]"),
        ({"box": [0, 1, 2]}, r"must be \[low, high\]"),
        ({"box": [1, 0]}, "low < high"),
        ({"mean": "ab"}, "`mean`"),
        ({"std": [0.0]}, "positive"),
        ({"arguments": [1]}, "an architecture and its arguments"),
        ({"architecture": 3}, "an architecture and its arguments"),
        ({"architecture": "nonsense"}, "an architecture must be one of"),
        ({"arguments": {"widths": [10**12], "input_shape": [4], "classes": 3}}, "wrong shapes"),
        ({"arguments": {"widths": [8] * 200, "input_shape": [4], "classes": 3}}, "missing"),
    ],
)
def test_notes_of_a_weights_file_that_cannot_be_are_refused(tmp_path, notes, said):
    from safetensors.torch import save_file

    module = build("fc", widths=[8], input_shape=[4], classes=3)
    plain = {"format": 1, "architecture": "fc", "arguments": {"widths": [8], "input_shape": [4], "classes": 3}}
    path = tmp_path / "a.safetensors"
    save_file(module.state_dict(), path, metadata={"trustbound": json.dumps({**plain, **notes})})
    with pytest.raises(InputError, match=said):
        load_model(path)
