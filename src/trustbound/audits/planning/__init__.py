"""What an audit does, in order, and what that costs: steps, a pilot on a few examples, one line for each step."""
