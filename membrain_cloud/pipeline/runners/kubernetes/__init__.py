"""Worker groups of the Dask operator on Kubernetes that follow the work.

The driver decides how many workers a group has, and which of them go: idle ones, by name. It patches the number of
replicas and tells the scheduler the names. The operator asks the scheduler for them and removes these workers.

    driver ── names ──► scheduler ◄── which n workers? ── operator ── deletes ──► Deployments of workers
       └────────────── replicas - n ──► API server ── replicas have changed ──►┘

Modules
-------
groups : groups, how tasks are divided among them, and how their sizes follow; without Kubernetes.
scaler : what is asked of the operator, and when.
api : requests to the Kubernetes API.
operator_endpoint : HTTP endpoint of the scheduler, which the operator asks.
"""

__all__ = ["api", "groups", "operator_endpoint", "scaler"]
