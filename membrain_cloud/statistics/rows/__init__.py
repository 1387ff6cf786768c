"""statistics/rows."""
