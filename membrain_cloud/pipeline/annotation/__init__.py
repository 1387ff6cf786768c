"""pipeline/annotation."""
