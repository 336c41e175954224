"""Models that are no torch module, from the command line."""

import json

SOURCE = """
import numpy as np
WEIGHTS = np.linspace(-1, 1, 640).reshape(10, 64)
def scores(inputs):
    return inputs.reshape(len(inputs), -1) @ WEIGHTS.T
def classes(inputs):
    return scores(inputs).argmax(1)
def forest(trees=10):
    import trustbound as tb
    from sklearn.ensemble import RandomForestClassifier
    train = tb.load_data("digits", split="train")
    return RandomForestClassifier(trees, random_state=0).fit(train.inputs.flatten(1), train.labels)
"""


def test_functions_over_arrays_and_forests_are_audited(tmp_path, trustbound):
    (tmp_path / "victim.py").write_text(SOURCE)
    asked = ["--data", "digits", "--limit", "40", "--threat", "linf:0.05", "--budget", "quick", "--json"]
    for name, more, access in (
        ("forest", ["--access", "scores"], "scores"),
        ("scores", ["--access", "scores"], "scores"),
        ("classes", ["--access", "decisions", "--classes", "10"], "decisions"),
    ):
        done = trustbound("audit", f"{tmp_path / 'victim.py'}:{name}", *asked, *more)
        assert done.code in (0, 3), done.err
        bracket = json.loads(done.out)["brackets"][0]
        assert bracket["access"] == access
        assert (bracket["lower"] > 0) == (name == "forest"), "trees are proven, functions are not"
    refused = trustbound("audit", f"{tmp_path / 'victim.py'}:scores", *asked)
    assert "Write linf:0.05;access=scores" in refused.error
    refused = trustbound("audit", f"{tmp_path / 'victim.py'}:classes", *asked, "--access", "decisions")
    assert "needs `classes`" in refused.error
