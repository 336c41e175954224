"""Score-based attacks: they see the model's outputs and no gradient."""
