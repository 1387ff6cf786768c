"""The stages of the pipeline: each reads its inputs, calls one function of the science, and writes its output.

A stage may import the science, the store, and `pipeline.settings`, `tasks`, `models` and `digest`; it decides nothing
about when it runs. segment -> separate -> mesh -> pick -> measure -> context, organelle

To add a stage:

1. `settings/`: a section of settings with a description for each field; add it to `Settings` in `settings/load.py`.
2. `stages/<name>.py`: a subclass of `base.Stage` and one instance of it, which the stages downstream import.
3. `stages/registry.py`: add the instance to `STAGES`, in the pipeline's order.
4. `planning/estimates.py`: a figure in `STATED_SECONDS_PER_MEGAVOXEL`, unless the stage has a network (`Stage.flops`).
5. `tests/pipeline/stages/test_<name>.py`.

Planning, execution, runners, `status` and the reports take the stage from the registry.

Modules
-------
base
    The interface `Stage`, and the contexts in which a stage plans and works.
registry
    All stages, by name.
segment, separate, mesh, pick, measure, context, organelle
    The stages.
inference, output_grid, score_cache, gpu_turn
    Parts of `segment`: sliding window, voxel grids, stored scores, turns at the GPU.
"""

__all__ = [
    "base",
    "context",
    "gpu_turn",
    "inference",
    "measure",
    "mesh",
    "organelle",
    "output_grid",
    "pick",
    "registry",
    "score_cache",
    "segment",
    "separate",
]
