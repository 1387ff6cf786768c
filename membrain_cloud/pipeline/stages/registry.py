"""The stages: each reads, calls one pure function, and writes. No science here, and no decision about when to run.

segment -> separate -> mesh -> pick -> measure
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.stages.measure import Measure
from membrain_cloud.pipeline.stages.pick import PICK
from membrain_cloud.pipeline.stages.separate import MESH, SEGMENT, SEPARATE, instances_of

if TYPE_CHECKING:
    from membrain_cloud.pipeline.stages.base import Stage

MEASURE = Measure(MESH, PICK, instances_of)

STAGES: dict[str, Stage] = {stage.name: stage for stage in (SEGMENT, SEPARATE, MESH, PICK, MEASURE)}
