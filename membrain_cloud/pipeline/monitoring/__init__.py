"""pipeline/monitoring."""
