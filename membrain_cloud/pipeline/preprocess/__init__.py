"""pipeline/preprocess."""
