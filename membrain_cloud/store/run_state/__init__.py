"""store/run_state."""
