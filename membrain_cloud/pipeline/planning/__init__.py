"""pipeline/planning."""
