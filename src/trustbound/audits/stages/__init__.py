"""The stages of an audit: clean pass, checks, bracket search by attacks and proofs, curve, calibration, the telling."""
