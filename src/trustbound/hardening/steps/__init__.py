"""What a step is made of: its examples, their augmentation, and how the weights move."""
