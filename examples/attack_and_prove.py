"""One attack and one proof on the same examples: the two sides of the bracket."""

import torch

import trustbound as tb
from trustbound.hardening import Recipe
from trustbound.model import build

train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=60)
module = build("cnn-small", seed=0, input_shape=[1, 8, 8], classes=10)
trained = tb.train(tb.wrap(module), train, Recipe(epochs=3, batch_size=64, learning_rate=3e-3))

threat = tb.Threat.parse("linf:0.03")
generator = torch.Generator().manual_seed(0)
found = tb.attack("apgd", trained.model, test.inputs, test.labels, threat, generator=generator, steps=30)
proof = tb.certify("crown", trained.model, test.inputs, test.labels, threat)
print(f"unbroken {float((~found.success).float().mean()):.1%}, certified {float(proof.certified.float().mean()):.1%}")
print(f"{found.cost.forwards} forwards, {found.cost.backwards} backwards; {proof.seconds:.1f} s of proof")
assert not bool((found.success & proof.certified).any()), "a certified example was broken"
