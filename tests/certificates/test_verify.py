"""What `tb.verify` answers at the edges: networks without a proof, boxes without width, files, time."""

import threading

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.verification import verifying
from trustbound.certificates.verification.properties import Property, Query, Unsafe
from trustbound.errors import InputError, ModelError


def asked(low, high, rows, limits):
    """One box and one unsafe set."""
    low, high, limits = (torch.tensor(part, dtype=torch.float64) for part in (low, high, limits))
    rows = torch.tensor(rows, dtype=torch.float64)
    query = Query(low=low, high=high, unsafe=(Unsafe(rows=rows, limits=limits),))
    return Property(inputs=len(low), outputs=rows.shape[1], queries=(query,))


def identity(count):
    linear = nn.Linear(count, count, bias=False)
    nn.init.eye_(linear.weight)
    return linear


class Extremes(nn.Module):
    """The larger and the smaller of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x):
        """(B, 2) → (B, 2)."""
        a, b = self.first(x), self.second(x)
        return torch.cat([torch.maximum(a, b).sum(1, keepdim=True), torch.minimum(a, b)[:, :1]], 1)


def smooth(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 1))


@pytest.mark.parametrize("activation", [nn.Mish(), nn.Softsign(), nn.SELU()], ids=str)
def test_other_activations_are_attacked_and_never_proven(activation):
    network = smooth(activation)
    box = ([-1.0, -1.0], [1.0, 1.0])
    low = tb.verify(network, asked(*box, [[1.0]], [100.0]))
    assert low.verdict == "sat"
    far = tb.verify(network, asked(*box, [[1.0]], [-100.0]))
    assert (far.verdict, far.witness) == ("unknown", None)
    assert "no proof" in far.reason
    assert type(activation).__name__ in far.reason


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(2, 6), nn.LeakyReLU(0.1), nn.Linear(6, 2)),
        nn.Sequential(nn.Unflatten(1, (1, 1, 2)), nn.Conv2d(1, 3, (1, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (2, 2, 2)), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        Extremes(),
        nn.Sequential(nn.Linear(2, 6), nn.ReLU6(), nn.BatchNorm1d(6), nn.Linear(6, 2)).double(),
        nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)),
        nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 4), nn.Softplus(), nn.Linear(4, 2)),
    ],
    ids=["leaky", "convolution", "max pool", "maximum and minimum", "clamp in float64", "smooth", "smooth, turning"],
)
def test_layers_that_proofs_read_are_decided_both_ways(network):
    network = network.eval()
    box = torch.tensor([[-0.5, 0.1], [0.5, 0.9]], dtype=torch.float64)
    kind = next(network.parameters()).dtype
    points = box[0] + torch.rand(4000, 2, dtype=torch.float64) * (box[1] - box[0])
    with torch.no_grad():
        least = float(network(points.to(kind)).double()[:, 0].min())
    for distance, verdict in ((0.02, "unsat"), (-0.001, "sat")):
        found = tb.verify(network, asked(*box.tolist(), [[1.0, 0.0]], [least - distance]), timeout=60)
        assert found.verdict == verdict, (distance, found.reason)


def test_a_box_without_width_is_one_input():
    network = identity(2)
    point = [0.1, 0.3]  # no float32 numbers
    above = tb.verify(network, asked(point, point, [[1.0, 0.0]], [0.2]))
    assert above.verdict == "sat"
    assert above.witness.inputs.tolist() == point
    assert tb.verify(network, asked(point, point, [[1.0, 0.0]], [0.05])).verdict == "unsat"


def test_a_set_that_rounding_alone_reaches_is_neither_found_nor_refuted():
    # 0.1 in float32 is larger than 0.1: the network as it runs reaches what the exact one does not.
    found = tb.verify(identity(1), asked([0.1], [0.1], [[-1.0]], [-float(torch.tensor(0.1))]))
    assert found.verdict == "unknown"


def test_what_lies_on_the_limit_is_in_the_set():
    assert tb.verify(identity(1), asked([0.0], [1.0], [[-1.0]], [-1.0])).verdict == "sat"


@pytest.mark.parametrize("limit", [1e39, 1e300])
def test_limits_beyond_the_networks_precision_are_refused(limit):
    with pytest.raises(InputError, match="finite numbers of the network's precision"):
        tb.verify(identity(1), asked([-limit], [0.0], [[1.0]], [-1.0]))


@pytest.mark.parametrize(
    "wrong",
    [
        ([0.0], [float("nan")], [[1.0]], [0.0]),
        ([1.0], [0.0], [[1.0]], [0.0]),
        ([0.0], [1.0], [[1.0]], [float("inf")]),
        ([0.0], [1.0, 2.0], [[1.0]], [0.0]),
        ([0.0], [1.0], [[1.0]], [0.0, 1.0]),
    ],
    ids=["nan", "upside down", "an infinite limit", "two sizes", "more limits than rows"],
)
def test_properties_that_are_none_are_refused_where_they_are_made(wrong):
    with pytest.raises(InputError, match="limits"):
        asked(*wrong)


def test_numbers_that_do_not_match_are_refused_before_any_work():
    with pytest.raises(InputError, match="declares 2 inputs and 2 outputs; the network has 2 and 1"):
        tb.verify(smooth(nn.ReLU()), asked([0, 0], [1, 1], [[1.0, 0.0]], [0.0]))
    with pytest.raises(InputError, match="declares 3 inputs and 1 outputs; the network has 2 and 1"):
        tb.verify(
            tb.wrap(smooth(nn.ReLU()), input_shape=(2,), task="regression:tolerance=1"),
            asked([0, 0, 0], [1, 1, 1], [[1.0]], [0.0]),
        )
    with pytest.raises(ModelError, match="input_shape"):
        tb.verify(nn.Conv2d(1, 1, 2), asked([0.0] * 4, [1.0] * 4, [[1.0]], [0.0]))
    with pytest.raises(InputError, match="`timeout`"):
        tb.verify(identity(1), asked([0.0], [1.0], [[1.0]], [0.0]), timeout=0)
    with pytest.raises(InputError, match="file or a torch module"):
        tb.verify(lambda inputs: inputs, asked([0.0], [1.0], [[1.0]], [0.0]))


def test_a_network_that_ends_in_log_softmax_has_no_proof_here():
    network = nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(1))
    found = tb.verify(network, asked([0, 0], [1, 1], [[-1.0, 0.0]], [-1.0]))
    assert found.verdict == "unknown"
    assert "log-softmax" in found.reason


def test_time_ends_a_proof_without_a_claim():
    torch.manual_seed(0)
    network = nn.Sequential(*(part for _ in range(3) for part in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 1))
    with torch.no_grad():
        least = network(torch.rand(100_000, 8) * 2 - 1).min()
    found = tb.verify(network, asked([-1.0] * 8, [1.0] * 8, [[1.0]], [float(least) - 0.01]), timeout=0.2)
    assert found.verdict in ("timeout", "unsat", "sat")
    none = tb.verify(network, asked([-1.0] * 8, [1.0] * 8, [[1.0]], [float(least) - 0.01]), timeout=1e-9)
    assert (none.verdict, none.witness) == ("timeout", None)


def test_the_network_is_left_as_it_came():
    network = smooth(nn.ReLU()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    tb.verify(network, asked([-1, -1], [1, 1], [[1.0]], [-5.0]))
    assert torch.equal(torch.rand(1), drawn)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(part.grad is None and part.requires_grad for part in network.parameters())


def test_a_witness_is_replayed_where_the_file_runs_elsewhere(tmp_path, monkeypatch):
    import warnings

    network = smooth(nn.ReLU()).eval()
    path = tmp_path / "a.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(1, 2),), path, dynamo=False)
    easy = asked([-1, -1], [1, 1], [[1.0]], [100.0])
    assert tb.verify(path, easy).witness.replayed == ("float64", "onnxruntime")
    (tmp_path / "a.vnnlib").write_text(easy.text())
    assert tb.verify(path, tmp_path / "a.vnnlib").text().startswith("sat\n((X_0 ")
    # What another runtime does not confirm is no witness.
    monkeypatch.setattr(
        "trustbound.certificates.verification.falsifying._run", lambda *given: torch.full((1, 1), 1e3).double()
    )
    found = tb.verify(path, easy)
    assert (found.verdict, found.witness) == ("unknown", None)


def test_it_runs_outside_of_the_main_thread():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(tb.verify(identity(1), asked([0.0], [1.0], [[1.0]], [-1.0])).verdict)
    )
    thread.start()
    thread.join()
    assert found == ["unsat"]
    assert verifying.FEW == 10
