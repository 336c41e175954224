"""How far can a random forest be trusted? Only its decisions are seen: no scores, no gradients, no layers."""

from typing import Any

import trustbound as tb


def forest(trees: int = 100) -> Any:
    """A random forest of scikit-learn, trained here in a second on the digits."""
    from sklearn.ensemble import RandomForestClassifier

    train = tb.load_data("digits", split="train")
    return RandomForestClassifier(trees, random_state=0).fit(train.inputs.flatten(1), train.labels)


def main() -> None:
    """The same as `trustbound audit examples/random_forest.py:forest --access decisions --data digits --threat …`."""
    model = tb.wrap(forest(), shows="decisions")
    record = tb.audit(model, tb.load_data("digits", limit=40), ["linf:0.1;access=decisions"], budget="quick")
    (bracket,) = record.brackets
    print(f"robust accuracy at most {bracket.upper:.0%}, at least {bracket.lower:.0%} {bracket.no_proof}".rstrip())
    print(f"{record.cost.forwards / len(record.examples):,.0f} questions an example")


if __name__ == "__main__":
    main()
