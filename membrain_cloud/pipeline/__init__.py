"""The pipeline: settings, stages, planning, execution and runners, and every workflow that the command line offers.

It may import everything but `membrain_cloud.cli`; of its own packages each imports only those listed after it.

Packages
--------
training, projects
    Training of networks on projects; demo, simulated projects, folders of meshes.
runners
    Execution in this process and on Dask. No other package imports Dask.
monitoring, maintenance
    Progress, logs and metrics; verification and cleaning.
annotation, evaluation, reporting, files, preprocess
    Patches for annotators; scores against a truth; reports; single files; filters.
execution
    One task, and the driver of a plan.
planning
    Which tasks are left, and what they will take.
stages
    segment, separate, mesh, pick, measure. How to add a stage: see `stages/__init__.py`.
settings, tasks, models, digest
    Settings; what travels to workers; models by name; digests.
"""

__all__ = [
    "annotation",
    "digest",
    "evaluation",
    "execution",
    "files",
    "maintenance",
    "models",
    "monitoring",
    "planning",
    "preprocess",
    "projects",
    "reporting",
    "runners",
    "settings",
    "stages",
    "tasks",
    "training",
]
