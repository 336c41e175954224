"""The certifiers, one idea a file: from a list of operations and a region to lower bounds of margins."""
