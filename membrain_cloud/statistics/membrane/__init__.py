"""statistics/membrane."""
