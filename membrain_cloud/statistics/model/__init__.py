"""statistics/model."""
