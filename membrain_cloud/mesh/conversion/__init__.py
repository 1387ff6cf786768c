"""mesh/conversion."""
