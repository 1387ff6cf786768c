"""What a stage is: the class that stages.py fills, and what a stage is handed for planning and for working."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from membrain_cloud.errors import ProjectError
from membrain_cloud.pipeline.stages.gpu_turn import GpuTurn
from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef
from membrain_cloud.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from membrain_cloud.geometry import Grid
    from membrain_cloud.pipeline.settings import Settings
    from membrain_cloud.pipeline.tasks import Ref, Task
    from membrain_cloud.store.objects.io_meter import Meter
    from membrain_cloud.store.projects.project import Project
    from membrain_cloud.store.run_state.receipts import Receipts
    from membrain_cloud.store.tables.parquet_tables import Tables

# What a worker's interpreter and libraries take before it has read a voxel.
BASE_BYTES = GIB // 2
MEMBRANE = "membrane"
GENE_ONTOLOGY_MEMBRANE = "GO:0016020"


@dataclass(frozen=True)
class RunContext:
    """Where a stage is about to work: one run of a project. `tomogram` is None where only a segmentation exists."""

    project: Project
    run: str
    tomogram: TomogramRef | None
    settings: Settings
    sessions: Mapping[str, str]

    @property
    def dataset(self) -> str:
        """The `dataset=` partition of the tables: the project's word for this run, else `output.dataset`."""
        return self.project.dataset_of(self.run) or self.settings.output.dataset

    def require_tomogram(self, stage: str) -> TomogramRef:
        if self.tomogram is None:
            raise ProjectError(
                f"run {self.run} has no tomogram, and {stage} reads one",
                f"leave {stage} out with --stages, or add a tomogram to the run",
            )
        return self.tomogram


@dataclass(frozen=True)
class TaskPart:
    """A part of a stage's work on one tomogram; `material` is what its digest covers beside the stage's."""

    name: str
    needs: tuple[str, ...] = ()
    material: Any = None


WHOLE = (TaskPart("whole"),)


@dataclass(frozen=True)
class TaskContext:
    """What a stage has at hand while it works on a task.

    meter : knows what was written to the project so far.  gpu_turn : at the GPU; the engine ends it.
    """

    project: Project
    tables: Tables
    settings: Settings
    receipts: Receipts
    task: Task
    meter: Meter
    gpu_turn: GpuTurn = field(default_factory=GpuTurn)

    @property
    def dataset(self) -> str:
        """As `RunContext.dataset`."""
        return self.project.dataset_of(self.task.run) or self.settings.output.dataset

    def tomogram(self, role: str) -> TomogramRef:
        ref = self.task.inputs[role]
        assert isinstance(ref, TomogramRef)
        return ref

    def segmentation(self, role: str) -> SegmentationRef:
        ref = self.task.inputs[role]
        assert isinstance(ref, SegmentationRef)
        return ref

    def object(self, role: str) -> ObjectRef:
        ref = self.task.inputs[role]
        assert isinstance(ref, ObjectRef)
        return ref

    def written_segmentation(self) -> SegmentationRef:
        assert isinstance(self.task.output, SegmentationRef)
        return self.task.output

    def written_object(self) -> ObjectRef:
        assert isinstance(self.task.output, ObjectRef)
        return self.task.output


class Stage(ABC):
    """A stage: read, one pure function, write. The engine (work.py) writes the receipt.

    name : as in settings and commands.  data_version : raised when the code's results change, so that all that hangs
    on it is redone.  needs_gpu : whether a GPU makes it faster.  keeps_receipts_in : where its output lives.
    tomogram_reads : how many times it reads the tomogram.
    """

    name: ClassVar[str]
    data_version: ClassVar[int] = 1
    needs_gpu: ClassVar[bool] = False
    keeps_receipts_in: ClassVar[str] = "project"
    tomogram_reads: ClassVar[int] = 0
    # What its network must be for, as the model's header says it.
    model_task: ClassVar[str] = ""

    @abstractmethod
    def after(self, settings: Settings) -> Sequence[str]:
        """The stages whose output it reads under these settings."""

    @abstractmethod
    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """All settings that decide its result, JSON-able, and the copick URIs it is given."""

    def model(self, settings: Settings) -> str | None:
        """The network it uses, as `load_segmenter` or `load_picker` knows it."""
        return None

    def is_replaced(self, settings: Settings) -> bool:
        """Whether somebody's annotation stands in for this stage's output."""
        return False

    @abstractmethod
    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """What it reads, by role. Raises ProjectError where a given input does not exist."""

    @abstractmethod
    def output(self, context: RunContext) -> Ref | None:
        """The annotation it writes; None where it writes table rows."""

    def parts(self, context: RunContext, grid: Grid) -> Sequence[TaskPart]:
        """The tasks it is cut into on a volume of `grid`, the same for all of that grid; the last one completes it."""
        return WHOLE

    def declare(self, project: Project, settings: Settings) -> None:  # noqa: B027 (most need nothing)
        """Add to the project what its output needs there (copick's pickable objects); the driver calls it once."""

    @abstractmethod
    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Peak memory of one of its tasks on a volume of `grid`, the interpreter included."""

    def flops(self, grid: Grid, settings: Settings) -> float | None:
        """Floating point operations of its network on a volume of `grid`; None where they are not known from that."""
        return None

    @abstractmethod
    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Do `context.task`: read, compute, write. Returns counts for the receipt, JSON-able."""


def labels_ref(context: RunContext, stage: str, spacing_angstrom: float, *, instance: bool = False) -> SegmentationRef:
    """The segmentation that a stage of ours writes."""
    user, session = context.settings.output.user, context.sessions[stage]
    return SegmentationRef(context.run, MEMBRANE, user, session, spacing_angstrom, instance)


def declare_membrane(project: Project) -> None:
    project.ensure_object(MEMBRANE, is_particle=False, identifier=GENE_ONTOLOGY_MEMBRANE)
