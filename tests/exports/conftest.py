"""A finished audit of digits under two threats, with witnesses, made once."""

from types import SimpleNamespace

import pytest

import trustbound as tb
from trustbound.record.record_file import read_record


@pytest.fixture(scope="session")
def audited(digits_network, tmp_path_factory):
    """run, record, model, data: what an audit from the command line leaves, made in Python with its words."""
    folder = tmp_path_factory.mktemp("exports")
    weights = tb.save_model(digits_network(), folder / "fc.safetensors")
    model, data = tb.load_model(f"fc:{weights}"), tb.load_data("digits", limit=24)
    threats = ["linf:0.1", "rotation:20"]
    command = f"trustbound audit fc:{weights} --data digits --limit 24 --threat linf:0.1 --threat rotation:20"
    tb.audit(model, data, threats, budget="quick", run=folder / "run", curve_examples=8, command=command)
    return SimpleNamespace(
        folder=folder, run=folder / "run", record=read_record(folder / "run"), model=model, data=data, weights=weights
    )
