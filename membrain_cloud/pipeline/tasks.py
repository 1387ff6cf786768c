"""Task and Outcome: the only two things that travel between the driver and its workers, both JSON-able."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from membrain_cloud.store.refs import ObjectRef, SegmentationRef, TomogramRef

if TYPE_CHECKING:
    from collections.abc import Mapping

Ref = TomogramRef | SegmentationRef | ObjectRef
# What a task needs: a GPU where there are any, or none.
Kind = Literal["gpu", "cpu"]
# "held" and "again" are passing: another run is at it; it is tried once more. No run ends with them.
State = Literal["done", "skipped", "failed", "blocked", "held", "again"]

_KINDS: dict[str, type[TomogramRef] | type[SegmentationRef] | type[ObjectRef]] = {
    "tomogram": TomogramRef,
    "segmentation": SegmentationRef,
    "object": ObjectRef,
}


def ref_as_dict(ref: Ref) -> dict[str, Any]:
    kind = next(name for name, known in _KINDS.items() if isinstance(ref, known))
    return {"kind": kind, **ref.as_dict()}


def ref_from_dict(values: Mapping[str, Any]) -> Ref:
    rest = {key: value for key, value in values.items() if key != "kind"}
    return _KINDS[values["kind"]].from_dict(rest)


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share: where the project and the tables are, and the settings."""

    config: str
    tables: str
    settings: Mapping[str, Any]

    def limit(self, name: str) -> float:
        """A number among the settings of the run itself (`RunSettings`)."""
        return float(self.settings["run"][name])


@dataclass(frozen=True)
class Task:
    """One piece of work: a stage on one tomogram, or a part of it.

    part : "whole", or "prepare", "block-0", "block-1" ... "finish" where a stage splits its volume.
    digest : covers all that decides the result; a receipt with the same digest says that it is done.
    inputs : what the stage reads, by role.  output : the annotation it writes; None where it writes table rows.
    receipt : name of the receipt, with the digest in it.
    needs : keys of the tasks of this plan that must be done first.
    place : which tomogram of the run, `type@spacing` (or the segmentation, where there is no tomogram).
    stage_digest : digest of all that decides the result but the data, the same for all tomograms.
    model_sha256 : of the network it uses; empty without one.
    identities : what says of each input, by role, which data it was: the stored objects' identity, or the digest
    (16 digits) of the task that makes it.  voxels : of the tomogram's grid.
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

    def __reduce__(self) -> tuple[Any, ...]:
        # Without it each task of a plan, once it was sent, would hold a dictionary of its own for good.
        return Task, tuple(getattr(self, name) for name in Task.__dataclass_fields__)

    @property
    def address(self) -> str:
        """Where the receipts of all parts of this work lie, of whatever digest."""
        return self.receipt.rpartition("/")[0]

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.run}/{self.part}"

    @property
    def completes(self) -> bool:
        """Whether the stage is done on this tomogram when this task is."""
        return self.part in ("whole", "finish")

    def as_dict(self) -> dict[str, Any]:
        names = ("stage", "run", "part", "digest", "receipt", "place", "model_sha256", "voxels")
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
    """What became of a task. `next_step` says what to do about a failure; `traceback` is kept for bugs.

    passing : the fault may pass by itself, so that the task is worth another go later.
    worker : who did it.  measured : voxels, bytes_read, bytes_written, gpu_seconds, retries, as far as they are known.
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
        return f"{self.stage}/{self.run}/{self.part}"

    def at(self, worker: str) -> Outcome:
        return replace(self, worker=worker)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "counts": dict(self.counts), "measured": dict(self.measured)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        return cls(**values)

    def line(self) -> str:
        """One line for people: `TS_3: pick failed: what -> next step`."""
        cure = f" -> {self.next_step}" if self.next_step else ""
        return f"{self.run}: {self.stage} {self.state}: {self.message}{cure}"


def timeout_outcome(task: Task, hours: float) -> Outcome:
    """The failure of a task whose time was up."""
    message = f"it took longer than run.task_hours = {hours:g} and was stopped"
    cure = "raise it with --set run.task_hours=..., or give it a faster worker"
    return Outcome(task.stage, task.run, task.part, "failed", message, cure)
