"""Uncertainty: does the network know when it is wrong, on clean inputs and under attack?

`softmax.calibration_scores` scores the confidences, `temperature.fit_temperature` mends them or advises against it,
`conformal` turns them into sets with guaranteed coverage, `assess.assess` does all of it on one split.
Import the module that is meant; this package itself imports no torch.
"""
