"""pipeline/maintenance."""
