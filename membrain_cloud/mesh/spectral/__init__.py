"""mesh/spectral."""
