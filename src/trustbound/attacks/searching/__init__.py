"""The search that every per-example attack runs in: the problem it sees, best so far, the loop."""
