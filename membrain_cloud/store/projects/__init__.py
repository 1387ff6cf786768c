"""store/projects."""
