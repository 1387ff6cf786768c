"""statistics/spatial."""
