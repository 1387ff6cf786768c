"""store/volumes."""
