"""How far can a regressor be trusted? Scikit-learn's diabetes study: a number to predict, right within a tolerance."""

import torch
from torch import nn

import trustbound as tb


def regressor() -> nn.Module:
    """A small network, trained here in a second: ten measurements in [0, 1] → a measure of progress, 25 to 346."""
    torch.manual_seed(0)
    train = tb.load_data("diabetes", split="train")
    centre, spread = train.labels.mean(), train.labels.std()
    wanted = ((train.labels - centre) / spread).float()
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(200):
        loss = nn.functional.mse_loss(net(train.inputs)[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = net[-1]
    with torch.no_grad():  # in the unit of the study
        last.weight.mul_(spread)
        last.bias.mul_(spread).add_(centre)
    return net.eval()


def main() -> None:
    """The same as `trustbound audit examples/regression_diabetes.py:regressor --data diabetes --task …`."""
    model = tb.wrap(regressor(), task="regression", tolerance=90)
    record = tb.audit(model, tb.load_data("diabetes"), ["linf:0.03"], budget="quick", curve_examples=0)
    (bracket,) = record.brackets
    print(f"within {model.task.tolerance:g}: {record.clean_accuracy:.1%} without interference")
    print(f"{bracket.threat}: between {bracket.lower:.1%} and {bracket.upper:.1%}, {bracket.unknown} unknown")
    for state, found in record.measures.items():
        print(state, {name: round(value, 2) for name, value in found.items()})
    worst = max(record.examples, key=lambda row: abs(row.detail.get("adversarial_error", 0.0)))
    print(f"example {worst.index}: {worst.detail}")


if __name__ == "__main__":
    main()
