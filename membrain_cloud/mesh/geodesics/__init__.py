"""mesh/geodesics."""
