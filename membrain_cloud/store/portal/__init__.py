"""store/portal."""
