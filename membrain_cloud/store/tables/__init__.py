"""store/tables."""
