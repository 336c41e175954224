"""One perturbation for all inputs: fitted on some examples, scored on others like any attack."""
