"""How far can a segmenter be trusted? Drawn pictures, a class for each pixel, right where enough pixels are."""

import torch
from torch import nn

import trustbound as tb


def segmenter() -> nn.Module:
    """A small fully convolutional network, trained here in seconds: 32×32 pictures → four classes for each pixel."""
    torch.manual_seed(0)
    train = tb.load_data("shapes", split="train")
    layers: list[nn.Module] = []
    for before, after, stride, dilation in (
        (3, 24, 2, 1),
        (24, 32, 1, 1),
        (32, 32, 1, 2),
        (32, 32, 1, 4),
        (32, 32, 1, 1),
    ):
        layers += [
            nn.Conv2d(before, after, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    net = nn.Sequential(*layers, nn.Conv2d(32, 4, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    lot = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(len(train), generator=lot).split(40):
            loss = nn.functional.cross_entropy(net(train.batch(rows)), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def main() -> None:
    """The same as `trustbound audit examples/segmentation_shapes.py:segmenter --data shapes --task …`."""
    model = tb.wrap(segmenter(), task="segmentation", min_accuracy=0.85)
    record = tb.audit(model, tb.load_data("shapes", limit=40), ["linf:8/255"], budget="quick")
    (bracket,) = record.brackets
    print(f"at least {model.task.min_accuracy:.0%} of the pixels right: {record.clean_accuracy:.1%} of the pictures")
    print(f"{bracket.threat}: at most {bracket.upper:.1%}; a lower bound cannot exist: {bracket.no_proof}")
    for state, found in record.measures.items():
        print(state, {name: round(value, 3) for name, value in found.items()})


if __name__ == "__main__":
    main()
