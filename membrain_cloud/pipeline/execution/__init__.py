"""Execution of a plan: the life of one task, the driver that hands tasks to a runner, and the records of failures.

Execution may import planning, the stages, the store, and `pipeline.settings`, `tasks`, `models` and `digest`; it knows
no Dask. The runners implement `runner.Runner`.

Modules
-------
driver
    `execute_plan` and `run_tasks`: which task starts next, what a failure blocks, when a task is retried.
runner
    The protocol `Runner`: what the driver asks of whatever executes tasks.
execute_task
    The life of one task on a worker: lease, stage, receipt.
outcome_store, failure_log, crash_records
    Outcomes in memory; failures, and attempts that killed their process, in the store.
provenance
    The contents of a receipt.
stale_leases
    Leases and crash records of finished tasks.
graceful_stop
    Stop on SIGTERM and Ctrl-C.
"""

__all__ = [
    "crash_records",
    "driver",
    "execute_task",
    "failure_log",
    "graceful_stop",
    "outcome_store",
    "provenance",
    "runner",
    "stale_leases",
]
