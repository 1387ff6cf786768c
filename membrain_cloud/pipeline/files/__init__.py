"""pipeline/files."""
