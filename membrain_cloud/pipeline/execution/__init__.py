"""pipeline/execution."""
