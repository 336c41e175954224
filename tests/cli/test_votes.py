"""What the command line says of a certificate by votes: of which model, and how surely."""

import json


def test_certify_by_votes_says_of_which_model_and_how_surely(trustbound, weights):
    line = ["certify", "smoothing", f"fc:{weights}", "--data", "digits", "--limit", "24", "--threat", "l2:0.05"]
    line += ["--params", '{"noise_std": 0.1, "draws": 400}', "--seed", "3"]
    said = json.loads(trustbound(*line, "--json").out)
    assert said["claim"] == (
        "of the model smoothed by gaussian noise of standard deviation 0.1; all 24 statements hold together except "
        "with probability 0.001"
    )
    assert 0 < said["certified"] <= 24
    assert json.loads(trustbound(*line, "--json").out)["certified"] == said["certified"]
    assert said["claim"] in trustbound(*line).out
    assert "claim" not in json.loads(trustbound("certify", "crown", *line[2:8], "linf:0.02", "--json").out)
    assert "needs `noise_std`" in trustbound(*line[:9]).err
