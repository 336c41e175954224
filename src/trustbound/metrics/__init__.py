"""Pure formulas on tensors: margins, losses, entropies, calibration scores, ranking scores, distances.

Nothing here calls a model or draws a random number; rows never see each other. Import the module that is
meant, for example `from trustbound.metrics.margin import margin`; this package itself imports no torch.
"""
