"""What an audit does, part by part: clean pass, probes, bracket search with attacks and proofs, curve, doubt."""
