"""Audit a module that is already in memory, on tensors that are at hand."""

import torch
from torch import nn

import trustbound as tb

torch.manual_seed(0)
train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=100)
module = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
for _ in range(60):
    loss = nn.functional.cross_entropy(module(train.inputs), train.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

model = tb.wrap(module.eval(), box=(0.0, 1.0))
data = tb.LabelledSet(test.inputs, test.labels, box=(0.0, 1.0))
record = tb.audit(model, data, ["linf:0.05"], budget="quick", curve_examples=0)
bracket = record.brackets[0]
print(f"clean {record.clean_accuracy:.1%}; {bracket.threat}: between {bracket.lower:.1%} and {bracket.upper:.1%}")
print([f"{check.name}: {check.verdict}" for check in record.checks if check.verdict in ("WARN", "FAIL")])
