"""Old name of `runners.kubernetes.operator_endpoint`, until release 0.3: configurations of schedulers name it."""

from membrain_cloud.pipeline.runners.kubernetes.operator_endpoint import routes

__all__ = ["routes"]
