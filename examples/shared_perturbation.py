"""One perturbation for all inputs: fitted to some digits, scored on digits that it has never seen."""

import torch
from torch import nn

import trustbound as tb


def main() -> None:
    """A linear classifier of digits: what is added to all of them is the same picture."""
    torch.manual_seed(0)
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=100)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(train.inputs), train.labels).backward()
        optimizer.step()
    fitted = tb.fit_perturbation("uap", net, train.inputs[:100], train.labels[:100], "linf:0.3", passes=3)
    found = tb.attack(fitted, net, test.inputs, test.labels, "linf:0.3")
    noise = 0.3 * torch.randn(1, 8, 8).sign()
    with torch.no_grad():
        noisy = net((test.inputs + noise).clamp(0, 1)).argmax(1) != test.labels
    print(f"fooled {fitted.fooled:.0%} of the digits it was fitted to, {int(found.success.sum())} of 100 others;")
    print(f"random noise of the same size: {int(noisy.sum())} of 100")
    assert int(found.success.sum()) > 2 * int(noisy.sum())


if __name__ == "__main__":
    main()
