"""The command line run inside the test process: exit code, stdout, stderr, as a shell would see them."""

import sys
from dataclasses import dataclass

import pytest

import trustbound as tb
from trustbound.cli.main import main


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line of a refusal; fails when there is a traceback or another line."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith(("error:", "missing:", "Error:"))]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def trustbound(monkeypatch, capfd):
    """Run `trustbound ARGUMENTS`."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["trustbound", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfd.readouterr()
        return Told(code, out, err)

    return run


@pytest.fixture(scope="session")
def weights(digits_network, tmp_path_factory):
    """A file of weights that every option can be tried on."""
    return tb.save_model(digits_network(), tmp_path_factory.mktemp("weights") / "fc.safetensors")


@pytest.fixture(scope="session")
def other_weights(digits_network, tmp_path_factory):
    """The same with another activation."""
    return tb.save_model(digits_network("gelu"), tmp_path_factory.mktemp("weights") / "gelu.safetensors")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, weights):
    """The run directory of a small finished audit."""
    run = tmp_path_factory.mktemp("runs") / "first"
    model = tb.load_model(f"fc:{weights}")
    data = tb.load_data("digits", limit=24)
    tb.audit(model, data, ["linf:0.05"], budget="quick", run=run, curve_examples=4)
    return run
