"""`trustbound lipschitz`: the layer table as text, and the same as JSON."""

import json
import math


def test_the_command_prints_the_table_and_its_json(trustbound, weights):
    line = ["lipschitz", f"fc:{weights}", "--data", "digits", "--limit", "8"]
    told = trustbound(*line, "--norm", "linf", "--norm", "l2", "--threat", "l2:0.1", "--semidefinite", "--json")
    assert told.code == 0
    said = json.loads(told.out)
    assert {row["kind"] for row in said["layers"]} == {"Linear"}
    for norm in ("linf", "l2"):
        product = math.prod(row["upper"][norm] for row in said["layers"])
        assert math.isclose(product, said["upper"][norm], rel_tol=1e-6)
        assert 0 < said["lower"][norm] < said["upper"][norm]
    assert said["lower"]["l2"] < said["semidefinite"] <= said["upper"]["l2"]
    assert said["threat"] == "l2:0.1"
    assert len(said["local"]) == 8
    assert max(said["local"]) <= said["upper"]["l2"]
    told = trustbound(*line)
    assert told.code == 0
    assert told.out.splitlines()[0].split("  ")[-1] == "Product so far, l2"
    assert "Lipschitz constant ≤" in told.out.splitlines()[-1]
    assert trustbound(*line, "--norm", "l3").code == 2
