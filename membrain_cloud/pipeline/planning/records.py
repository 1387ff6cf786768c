"""The records of a plan while it is built: one for each run, and in it one for each stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Ref, Task


@dataclass
class StagePlan:
    """One stage on one run, before it is known which tasks are done.

    Attributes
    ----------
    stage : Stage
        The stage.
    tasks : list of Task
        All its tasks on this run, the completing one last; once it is decided which are left, those.
    n_parts : int
        Number of all its tasks on this run.
    memory_bytes : int
        Peak memory of one task.
    refusal : MembrainCloudError or None
        Why the stage cannot be done on this run; None where it can.
    """

    stage: Stage
    tasks: list[Task] = field(default_factory=list)
    n_parts: int = 0
    memory_bytes: int = 0
    refusal: MembrainCloudError | None = None


@dataclass
class RunPlan:
    """All stages on one run.

    Attributes
    ----------
    run : str
        Name of the copick run.
    stages : dict of str to StagePlan
        The stages by name, in the pipeline's order.
    refs : dict of str to Ref
        What the stages read, by role: density, labels, instances, meshes, picks.
    grid : Grid or None
        Voxel grid of the tomogram, or of the given segmentation; None where it is unknown.
    is_begun : bool
        Whether a task on this run is done.
    """

    run: str
    stages: dict[str, StagePlan] = field(default_factory=dict)
    refs: dict[str, Ref] = field(default_factory=dict)
    grid: Grid | None = None
    is_begun: bool = False
