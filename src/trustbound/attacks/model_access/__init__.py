"""What the oracle is made of: counted passes, a model left untouched, and other ways to a gradient."""
