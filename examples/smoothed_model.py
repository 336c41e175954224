"""A network smoothed by noise, between a certificate with a stated confidence and an attack on the same votes."""

import torch

import trustbound as tb
from trustbound.certificates.methods.smoothing import Smoothing
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import GaussianNoise
from trustbound.model import build

train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=40)
recipe = Recipe(objective=GaussianNoise(noise_std=0.35), epochs=10, batch_size=64, learning_rate=5e-3)
inside = tb.train(tb.wrap(build("cnn-small", seed=0, input_shape=[1, 8, 8], classes=10)), train, recipe).model

# The smoothed model is another one than the network inside: both sides of its bracket are asked about its votes.
smoothed, threat = tb.smooth(inside, 0.35, draws=16), "l2:0.4"
generator = torch.Generator().manual_seed(0)
proof = tb.certify("smoothing", smoothed, test.inputs, test.labels, threat, draws=4000, looks=4, generator=generator)
found = tb.attack("apgd", smoothed, test.inputs, test.labels, threat, steps=20, generator=generator)
answers = Smoothing(draws=1000).predict(smoothed, found.adversarial, generator=generator)
broken = (answers != test.labels) & (answers >= 0)

print(f"certified {int(proof.certified.sum())}, unbroken {int((~broken).sum())} of {len(test)} under {threat},")
print(proof.claim)
print(f"median radius {float(proof.radius.median()):.2f}, at {proof.cost.forwards:,} forwards")
assert not bool((broken & proof.certified).any()), "a certified example was broken"
