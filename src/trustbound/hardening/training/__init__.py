"""The training loop and what it is made of: batches, modes, optimizer, checkpoints, processes."""
