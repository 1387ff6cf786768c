"""`Task` and `Outcome`: all that travels between the driver and its workers, as values for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping

Ref = TomogramRef | SegmentationRef | ObjectRef
"""A tomogram, a segmentation, or meshes or picks."""

Kind = Literal["gpu", "cpu"]
"""The workers that a task prefers: those with a GPU where there are any, or those without."""

State = Literal["done", "skipped", "failed", "blocked", "held", "again"]
"""State of an outcome. "held" (another run has the lease) and "again" lead to a retry: no run ends with them."""

_REFS: dict[str, type[TomogramRef] | type[SegmentationRef] | type[ObjectRef]] = {
    "tomogram": TomogramRef,
    "segmentation": SegmentationRef,
    "object": ObjectRef,
}


def ref_as_dict(ref: Ref) -> dict[str, Any]:
    """Return a reference as values for JSON, with its "kind".

    Parameters
    ----------
    ref : Ref
        The reference.

    Returns
    -------
    dict of str to Any
        Its fields, and its kind: tomogram, segmentation or object.
    """
    kind = next(name for name, cls in _REFS.items() if isinstance(ref, cls))
    return {"kind": kind, **ref.as_dict()}


def ref_from_dict(values: Mapping[str, Any]) -> Ref:
    """Return the reference that `ref_as_dict` has written.

    Parameters
    ----------
    values : mapping of str to Any
        Fields and kind.

    Returns
    -------
    Ref
        The reference.
    """
    rest = {key: value for key, value in values.items() if key != "kind"}
    return _REFS[values["kind"]].from_dict(rest)


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share.

    Attributes
    ----------
    config : str
        Path or URL of the project's config or manifest.
    tables : str
        URL of the tables.
    settings : mapping of str to Any
        The settings, as `Settings.as_dict`.
    """

    config: str
    tables: str
    settings: Mapping[str, Any]

    def limit(self, name: str) -> float:
        """Return a number of the section `run` of the settings, e.g. "task_hours".

        Parameters
        ----------
        name : str
            Name of the setting.

        Returns
        -------
        float
            Its value.
        """
        return float(self.settings["run"][name])


@dataclass(frozen=True, slots=True)
class Task:
    """One stage on one tomogram, or a part of it.

    Attributes
    ----------
    job : Job
        What all tasks of the run share.
    stage : str
        Name of the stage.
    run : str
        Name of the copick run.
    part : str
        "whole"; or "prepare", "block-0", "block-1" ... "finish" where a stage is cut.
    digest : str
        Digest of all that affects the result; a receipt with it says that the task is done.
    inputs : mapping of str to Ref
        What the stage reads, by role.
    output : Ref or None
        The annotation that it writes; None where it writes table rows.
    receipt : str
        Name of the receipt, with the digest in it.
    place : str
        Which tomogram of the run, `type@spacing`; or the segmentation where there is no tomogram.
    stage_digest : str
        Digest of all that affects the result but the data, the same for all tomograms ("link" in JSON).
    needs : tuple of str
        Keys of the tasks of this plan that must be done before.
    model_sha256 : str
        Checksum of the stage's model; empty without one.
    identities : mapping of str to str
        Role -> which data the input is: the identity of stored objects, or 16 digits of the digest of the task that
        makes it.
    voxels : int
        Voxels of the tomogram.
    memory_bytes : int
        Peak memory of the task in bytes, as planned; 0 where it is unknown.
    """

    job: Job
    stage: str
    run: str
    part: str
    digest: str
    inputs: Mapping[str, Ref]
    output: Ref | None
    receipt: str
    place: str
    stage_digest: str
    needs: tuple[str, ...] = ()
    model_sha256: str = ""
    identities: Mapping[str, str] = field(default_factory=dict)
    voxels: int = 0
    memory_bytes: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this each task would be pickled with the names of its fields.
        return Task, tuple(getattr(self, name) for name in Task.__dataclass_fields__)

    @property
    def address(self) -> str:
        """The folder of the receipts of all parts of this stage on this tomogram, whatever their digests."""
        return self.receipt.rpartition("/")[0]

    @property
    def key(self) -> str:
        """The task's name in its plan."""
        return f"{self.stage}/{self.run}/{self.part}"

    @property
    def completes(self) -> bool:
        """Whether the stage is done on this tomogram when this task is."""
        return self.part in ("whole", "finish")

    def as_dict(self) -> dict[str, Any]:
        """Return the task as values for JSON."""
        names = ("stage", "run", "part", "digest", "receipt", "place", "model_sha256", "voxels", "memory_bytes")
        return {name: getattr(self, name) for name in names} | {
            "link": self.stage_digest,
            "job": {"config": self.job.config, "tables": self.job.tables, "settings": dict(self.job.settings)},
            "inputs": {role: ref_as_dict(ref) for role, ref in self.inputs.items()},
            "output": None if self.output is None else ref_as_dict(self.output),
            "needs": list(self.needs),
            "identities": dict(self.identities),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Return the task that `as_dict` has written.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        fields = {"stage_digest" if name == "link" else name: value for name, value in values.items()}
        return cls(
            **{
                **fields,
                "job": Job(**values["job"]),
                "inputs": {role: ref_from_dict(ref) for role, ref in values["inputs"].items()},
                "output": None if values["output"] is None else ref_from_dict(values["output"]),
                "needs": tuple(values["needs"]),
            }
        )


@dataclass(frozen=True)
class Outcome:
    """How a task ended. The fields are the keys of a failure's record in the store.

    Attributes
    ----------
    stage, run, part : str
        The task.
    state : str
        How it ended, see `State`.
    message, next_step : str
        Cause of a failure, and what the user can do about it.
    seconds : float
        Time that it took, retries on its worker included.
    counts : mapping of str to Any
        What the stage has counted.
    traceback : str
        Traceback of an unexpected error.
    passing : bool
        Whether the error is transient, so that the task is worth a retry.
    worker : str
        Name of the worker.
    measured : mapping of str to float
        voxels, bytes_read, bytes_written, gpu_seconds, retries, as far as they are known.
    """

    stage: str
    run: str
    part: str
    state: State
    message: str = ""
    next_step: str = ""
    seconds: float = 0.0
    counts: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""
    passing: bool = False
    worker: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The task's name in its plan."""
        return f"{self.stage}/{self.run}/{self.part}"

    def at(self, worker: str) -> Outcome:
        """Return the same outcome with the name of its worker.

        Parameters
        ----------
        worker : str
            Address or name of the worker.
        """
        return replace(self, worker=worker)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as values for JSON."""
        return {**vars(self), "counts": dict(self.counts), "measured": dict(self.measured)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `as_dict` has written.

        Parameters
        ----------
        values : mapping
            What `as_dict` returned, also after a round trip through JSON.
        """
        return cls(**values)

    def line(self) -> str:
        """Return one line for users: `TS_3: pick failed: cause -> next step`."""
        cure = f" -> {self.next_step}" if self.next_step else ""
        return f"{self.run}: {self.stage} {self.state}: {self.message}{cure}"


def timeout_outcome(task: Task, hours: float) -> Outcome:
    """Return the failure of a task that exceeded its time limit.

    Parameters
    ----------
    task : Task
        The task.
    hours : float
        The limit in hours.

    Returns
    -------
    Outcome
        The failure.
    """
    message = f"it took longer than run.task_hours = {hours:g} and was stopped"
    cure = "raise run.task_hours, or give it a faster worker"
    return Outcome(task.stage, task.run, task.part, "failed", message, cure)
