"""Maintenance of finished runs: check outputs against their receipts, and remove what no receipt covers.

Maintenance may import execution, planning, the stages, the store, and `pipeline.settings`, `tasks` and `digest`.

Modules
-------
verify
    Compare every finished output with its receipt.
clean
    Find and remove outputs without a receipt, stale leases and temporary files.
"""

__all__ = ["clean", "verify"]
