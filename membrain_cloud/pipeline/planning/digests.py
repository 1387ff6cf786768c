"""Which stages take part in a run, and the digests from which sessions and receipts are named.

    digest of a stage = sha256(its settings, its model, its data version, digests of the stages before it)
    session           = the first 8 digits of it
    digest of a task  = sha256(digest of the stage, identity of what it reads from outside, digests of the tasks before)

A stage's digest is the same for all tomograms and names the annotations. A task's digest is one tomogram's; a receipt
with it says that the task is done. So a changed setting or input makes exactly what depends on it again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from membrain_cloud.errors import UsageError
from membrain_cloud.pipeline.digest import digest_of
from membrain_cloud.pipeline.stages.base import Stage

if TYPE_CHECKING:
    from membrain_cloud.pipeline.settings import Settings

Registry = Mapping[str, Stage]
"""Stages by name, in the pipeline's order."""


@dataclass(frozen=True)
class StageDigests:
    """The chosen stages and all upstream of them, in the pipeline's order.

    Attributes
    ----------
    digests : mapping of str to str
        Digest of each stage.
    sessions : mapping of str to str
        copick session to which each stage writes.
    models : mapping of str to str
        sha256 of each stage's model; empty for a stage without one.
    """

    digests: Mapping[str, str]
    sessions: Mapping[str, str]
    models: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings, registry: Registry, stages: Sequence[str]) -> StageDigests:
        """Compute the digests.

        Parameters
        ----------
        settings : Settings
            The settings of all stages.
        registry : mapping of str to Stage
            All stages.
        stages : sequence of str
            Names of the chosen stages.

        Returns
        -------
        StageDigests
            Digests, sessions and models of these stages and those upstream.

        Raises
        ------
        ModelError
            If a model is unknown or is made for another task.
        """
        names = _with_upstream(settings, registry, stages)
        models = {name: _model_sha256(registry[name], settings) for name in names}
        digests: dict[str, str] = {}
        for name in names:
            stage = registry[name]
            upstream = [digests[other] for other in stage.after(settings)]
            digest_settings = {**stage.digest_settings(settings), **_model_facts(stage, settings)}
            digests[name] = digest_of(name, digest_settings, models[name], stage.data_version, upstream)
        session = settings.output.session
        sessions = {name: digest[:8] if session == "auto" else session for name, digest in digests.items()}
        return cls(digests, sessions, models)


def choose_stages(stages: Sequence[str] | None, settings: Settings, registry: Registry) -> tuple[str, ...]:
    """Return the names of the stages to do, in the pipeline's order.

    Parameters
    ----------
    stages : sequence of str or None
        The stages asked for. Default: all that no given annotation replaces.
    settings : Settings
        The settings of all stages.
    registry : mapping of str to Stage
        All stages.

    Returns
    -------
    tuple of str
        Names of stages.

    Raises
    ------
    UsageError
        If there is no stage of a name.
    """
    if not stages:
        return tuple(name for name, stage in registry.items() if not stage.is_replaced(settings))
    for name in stages:
        if name not in registry:
            near = difflib.get_close_matches(name, list(registry), n=1)
            hint = f"did you mean {near[0]}?" if near else f"stages are {', '.join(registry)}"
            raise UsageError(f"no stage {name!r}", hint)
    return tuple(name for name in registry if name in stages)


def _with_upstream(settings: Settings, registry: Registry, stages: Sequence[str]) -> list[str]:
    needed: set[str] = set()
    waiting = list(stages)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += registry[name].after(settings)
    return [name for name in registry if name in needed]


def _model_sha256(stage: Stage, settings: Settings) -> str:
    source = stage.model(settings)
    if source is None:
        return ""
    from membrain_cloud.pipeline.models import header_for, model_sha256

    if stage.model_task:
        header_for(stage.model_task, source)
    return model_sha256(source)


def _model_facts(stage: Stage, settings: Settings) -> dict[str, Any]:
    """Return what a registry says of the stage's model beside its file; mostly nothing, which changes no digest."""
    source = stage.model(settings)
    if source is None:
        return {}
    from membrain_cloud.pipeline.models import registry_facts

    facts = registry_facts(source)
    return {"model_facts": facts} if facts else {}
