"""statistics/schema."""
