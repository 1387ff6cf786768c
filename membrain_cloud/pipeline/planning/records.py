"""The records of a plan in the making: one step for each stage of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membrain_cloud.errors import MembrainCloudError
    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.stages.base import Stage
    from membrain_cloud.pipeline.tasks import Ref, Task


@dataclass
class Step:
    """One stage on one run, before it is known what of it is done. `refusal` is why it cannot be done."""

    stage: Stage
    tasks: list[Task] = field(default_factory=list)
    memory_bytes: int = 0
    refusal: MembrainCloudError | None = None


@dataclass
class RunPlan:
    """Every task there could be on one run. grid : None where it is not known. begun : something of it is done."""

    run: str
    steps: dict[str, Step] = field(default_factory=dict)
    refs: dict[str, Ref] = field(default_factory=dict)
    grid: Grid | None = None
    begun: bool = False
