"""store/objects."""
