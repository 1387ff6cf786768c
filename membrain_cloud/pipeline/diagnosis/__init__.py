"""Checks of an installation and of what a run depends on: packages, devices, models, stores, portal and scheduler.

May import the pipeline below the commands' own packages, `store` and `networks`; Dask is asked through `runners`.

- `check` : the outcome of one check
- `devices` : memory, cores and GPUs, with a forward pass on each
- `installation` : Python, packages and extras
- `scheduler` : what a Dask scheduler says of its workers
- `services` : the portal and a Dask scheduler
- `stores` : a project, its overlay and the temporary folder
"""

__all__ = ["check", "devices", "installation", "scheduler", "services", "stores"]
