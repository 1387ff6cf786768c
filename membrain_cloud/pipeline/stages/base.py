"""The interface of a stage, and the contexts in which it plans and works."""

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

BASE_BYTES = GIB // 2
"""Memory of a worker's interpreter and libraries before it has read a voxel."""

MEMBRANE = "membrane"
"""Name of the copick object of membranes."""

GENE_ONTOLOGY_MEMBRANE = "GO:0016020"
"""Gene Ontology identifier of membranes."""


@dataclass(frozen=True)
class RunContext:
    """One run of a project, for which a stage is planned.

    Attributes
    ----------
    project : Project
        The project.
    run : str
        Name of the copick run.
    tomogram : TomogramRef or None
        The run's tomogram; None where only a segmentation exists.
    settings : Settings
        The settings of all stages.
    sessions : mapping of str to str
        Name of each stage -> copick session to which it writes.
    """

    project: Project
    run: str
    tomogram: TomogramRef | None
    settings: Settings
    sessions: Mapping[str, str]

    @property
    def dataset(self) -> str:
        """The `dataset=` partition of the tables: what the project says for this run, else `output.dataset`."""
        return self.project.dataset_of(self.run) or self.settings.output.dataset

    def require_tomogram(self, stage: str) -> TomogramRef:
        """Return the run's tomogram.

        Parameters
        ----------
        stage : str
            Name of the stage that reads it, for the error.

        Returns
        -------
        TomogramRef
            The tomogram.

        Raises
        ------
        ProjectError
            If the run has no tomogram.
        """
        if self.tomogram is None:
            raise ProjectError(
                f"run {self.run}: it has no tomogram, and the stage {stage} reads one",
                f"leave out the stage {stage}, or add a tomogram to the run",
            )
        return self.tomogram


@dataclass(frozen=True)
class TaskPart:
    """One task of several into which a stage is cut on one tomogram.

    Attributes
    ----------
    name : str
        `prepare`, `block-0`, `block-1` ... `finish`; `whole` for a stage that is not cut.
    needs : tuple of str
        Names of the parts that must be done before.
    digest_input : Any
        What the digest of this task covers beside the stage's digest: values for JSON.
    """

    name: str
    needs: tuple[str, ...] = ()
    digest_input: Any = None


WHOLE = (TaskPart("whole"),)
"""The parts of a stage that is not cut."""


@dataclass(frozen=True)
class TaskContext:
    """What a stage works with while it executes a task.

    Attributes
    ----------
    project : Project
        The project, metered.
    tables : Tables
        The Parquet tables, metered.
    settings : Settings
        The settings of all stages.
    receipts : Receipts
        Where the receipts of this stage are kept.
    task : Task
        The task to do.
    meter : Meter
        Counts and checksums of what was written to the project so far.
    gpu_turn : GpuTurn
        The task's turn at the GPU. The engine releases it at the end.
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
        """The `dataset=` partition of the tables, as `RunContext.dataset`."""
        return self.project.dataset_of(self.task.run) or self.settings.output.dataset

    def tomogram(self, role: str) -> TomogramRef:
        """Return the input with this role, a tomogram.

        Parameters
        ----------
        role : str
            Key of the task's inputs, e.g. "density".
        """
        ref = self.task.inputs[role]
        assert isinstance(ref, TomogramRef)
        return ref

    def segmentation(self, role: str) -> SegmentationRef:
        """Return the input with this role, a segmentation.

        Parameters
        ----------
        role : str
            Key of the task's inputs, e.g. "labels" or "instances".
        """
        ref = self.task.inputs[role]
        assert isinstance(ref, SegmentationRef)
        return ref

    def object(self, role: str) -> ObjectRef:
        """Return the input with this role: meshes or picks.

        Parameters
        ----------
        role : str
            Key of the task's inputs, e.g. "meshes" or "picks".
        """
        ref = self.task.inputs[role]
        assert isinstance(ref, ObjectRef)
        return ref

    def written_segmentation(self) -> SegmentationRef:
        """Return the output, a segmentation."""
        assert isinstance(self.task.output, SegmentationRef)
        return self.task.output

    def written_object(self) -> ObjectRef:
        """Return the output: meshes or picks."""
        assert isinstance(self.task.output, ObjectRef)
        return self.task.output


class Stage(ABC):
    """A stage: read, one pure function, write. The engine (execution/execute_task.py) writes the receipt.

    Attributes
    ----------
    name : str
        Name in settings, commands and receipts.
    data_version : int
        Version of the stage's results. Raise it when they change, so that they and all that depend on them are made
        again.
    needs_gpu : bool
        Whether a GPU makes it faster; its tasks go to GPU workers where there are any.
    keeps_receipts_in : str
        "project" or "tables": the store that has its output and its receipts.
    tomogram_reads : int
        How many times it reads the tomogram, for the estimates.
    model_task : str
        Task of its network ("segmentation", "picking"), as in the model's header; empty without a network.
    """

    name: ClassVar[str]
    data_version: ClassVar[int] = 1
    needs_gpu: ClassVar[bool] = False
    keeps_receipts_in: ClassVar[str] = "project"
    tomogram_reads: ClassVar[int] = 0
    model_task: ClassVar[str] = ""

    @abstractmethod
    def after(self, settings: Settings) -> Sequence[str]:
        """Return the names of the stages whose output this one reads under these settings.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.

        Returns
        -------
        sequence of str
            Names of stages upstream.
        """

    @abstractmethod
    def digest_settings(self, settings: Settings) -> Mapping[str, Any]:
        """Return all settings that affect its result and the copick URIs of given inputs, as values for JSON.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.

        Returns
        -------
        mapping of str to Any
            What the stage's digest covers beside its model and its data version.
        """

    def model(self, settings: Settings) -> str | None:
        """Return its network as `models.resolve` takes it; None without a network.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.

        Returns
        -------
        str or None
            Built-in name, path, URL or name of the registry.
        """
        return None

    def is_replaced(self, settings: Settings) -> bool:
        """Return whether an annotation that the settings name takes the place of this stage's output.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.

        Returns
        -------
        bool
            Default: False.
        """
        return False

    @abstractmethod
    def inputs(self, context: RunContext) -> Mapping[str, Ref]:
        """Return what it reads on one run.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        mapping of str to Ref
            Role ("density", "labels", ...) -> tomogram, segmentation, meshes or picks.

        Raises
        ------
        ProjectError
            If an input that the settings name does not exist.
        """

    @abstractmethod
    def output(self, context: RunContext) -> Ref | None:
        """Return the annotation that it writes on one run; None where it writes table rows.

        Parameters
        ----------
        context : RunContext
            The run.

        Returns
        -------
        Ref or None
            A segmentation, meshes or picks, in the stage's session.
        """

    def rows_name(self, settings: Settings) -> str:
        """Return what tells the rows that these settings ask for from other rows of the same tomogram.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.

        Returns
        -------
        str
            A safe name behind the tomogram's in the names of parts and receipts. Default: empty, a tomogram has one set
            of rows.
        """
        return ""

    def parts(self, context: RunContext, grid: Grid) -> Sequence[TaskPart]:
        """Return the tasks into which it is cut.

        Parameters
        ----------
        context : RunContext
            The run.
        grid : Grid
            The run's voxel grid. The parts must be the same for all runs with this grid.

        Returns
        -------
        sequence of TaskPart
            The parts; with the last one the stage is done. Default: `WHOLE`.
        """
        return WHOLE

    def declare(self, project: Project, settings: Settings) -> None:  # noqa: B027 (most stages declare nothing)
        """Add to the project what the output needs there (copick's pickable objects); called once in a run.

        Parameters
        ----------
        project : Project
            The project.
        settings : Settings
            The settings of all stages.
        """

    @abstractmethod
    def memory_bytes(self, grid: Grid, settings: Settings) -> int:
        """Return the peak memory of one of its tasks on a volume with this grid, in bytes, interpreter included.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram, or of the given segmentation.
        settings : Settings
            The settings of all stages.

        Returns
        -------
        int
            Bytes; an upper estimate, by which tasks too large for a worker are refused.
        """

    def flops(self, grid: Grid, settings: Settings) -> float | None:
        """Return the floating point operations of its network on a volume with this grid; None where unknown.

        Parameters
        ----------
        grid : Grid
            Voxel grid of the tomogram.
        settings : Settings
            The settings of all stages.

        Returns
        -------
        float or None
            Operations. Default: None.
        """
        return None

    @abstractmethod
    def execute(self, context: TaskContext) -> Mapping[str, Any]:
        """Do a task: read, compute, write.

        Parameters
        ----------
        context : TaskContext
            The task, and the stores from which it reads and to which it writes.

        Returns
        -------
        mapping of str to Any
            Counts for the receipt, as values for JSON.
        """


def labels_ref(context: RunContext, stage: str, spacing_angstrom: float, *, instance: bool = False) -> SegmentationRef:
    """Return the segmentation of membranes that a stage writes on one run.

    Parameters
    ----------
    context : RunContext
        The run.
    stage : str
        Name of the stage, whose session it belongs to.
    spacing_angstrom : float
        Voxel spacing in Å.
    instance : bool
        Whether the labels number the membranes. Default: False, a mask.

    Returns
    -------
    SegmentationRef
        The segmentation.
    """
    user, session = context.settings.output.user, context.sessions[stage]
    return SegmentationRef(context.run, MEMBRANE, user, session, spacing_angstrom, instance)


def declare_membrane(project: Project) -> None:
    """Add the object of membranes to the project's pickable objects.

    Parameters
    ----------
    project : Project
        The project.
    """
    project.ensure_object(MEMBRANE, is_particle=False, identifier=GENE_ONTOLOGY_MEMBRANE)
