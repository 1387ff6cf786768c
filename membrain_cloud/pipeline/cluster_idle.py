"""Old name of `runners.idle_endpoint`, until release 0.3: schedulers that run name it in their configuration."""

from membrain_cloud.pipeline.runners.idle_endpoint import routes

__all__ = ["routes"]
