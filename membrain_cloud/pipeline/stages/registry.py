"""All stages by name, in the pipeline's order: segment -> separate -> mesh -> pick -> measure -> context, organelle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from membrain_cloud.pipeline.stages.context import CONTEXT
from membrain_cloud.pipeline.stages.measure import MEASURE
from membrain_cloud.pipeline.stages.mesh import MESH
from membrain_cloud.pipeline.stages.organelle import ORGANELLE
from membrain_cloud.pipeline.stages.pick import PICK
from membrain_cloud.pipeline.stages.segment import SEGMENT
from membrain_cloud.pipeline.stages.separate import SEPARATE

if TYPE_CHECKING:
    from membrain_cloud.pipeline.stages.base import Stage

STAGES: dict[str, Stage] = {stage.name: stage for stage in (SEGMENT, SEPARATE, MESH, PICK, MEASURE, CONTEXT, ORGANELLE)}
