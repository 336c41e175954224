"""Checks of the evaluation: twenty-one named checks, each with a number, a verdict and what to do next.

`registry` lists them without torch; `examine` runs them. A check measures first and is judged afterwards: the
thresholds and their reasons stand in the registry, nowhere else.
"""
