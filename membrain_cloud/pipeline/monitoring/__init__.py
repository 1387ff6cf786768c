"""Monitoring of runs: progress, JSON log and Prometheus metrics of this run, and what the store tells of others.

Monitoring may import execution, planning, the store, and `pipeline.settings` and `tasks`; it alone imports
prometheus_client.

Modules
-------
observers
    All observers of one run, set up and closed together.
progress
    Counts of tasks and tomograms, rate and time left.
json_log, prometheus
    Log and metrics.
activity
    Which tasks other runs are working on, by leases and receipts.
"""

__all__ = ["activity", "json_log", "observers", "progress", "prometheus"]
