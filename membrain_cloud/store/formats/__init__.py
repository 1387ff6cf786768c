"""store/formats."""
