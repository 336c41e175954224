"""Decision-based attacks: they see the predicted class alone."""
