"""pipeline/projects."""
