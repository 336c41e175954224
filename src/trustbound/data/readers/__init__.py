"""One file format each; every reader returns a LabelledSet or plain arrays."""
