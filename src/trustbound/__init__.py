"""trustbound."""
