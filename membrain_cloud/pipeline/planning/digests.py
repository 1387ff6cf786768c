"""Which stages a run goes through, and the digests that say what a result rests on.

    session of a stage = sha256(its settings, its model, its data version, those of the stages before it), 8 digits
    digest of a task   = sha256(all of that, the identity of what it reads from outside, digests of the tasks before it)

A session is the same for all tomograms and names the annotations; a digest is one tomogram's and says, in a receipt,
that a task is done. So a changed setting or input redoes exactly what hangs on it.
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


@dataclass(frozen=True)
class StageDigests:
    """The chosen stages and all that they rest on, in the pipeline's order.

    digests : of each stage.  sessions : copick session each writes to.  models : sha256 of each one's network, or "".
    """

    digests: Mapping[str, str]
    sessions: Mapping[str, str]
    models: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings, registry: Registry, chosen: Sequence[str]) -> StageDigests:
        needed = _with_upstream(settings, registry, chosen)
        models = {name: _model_sha256(registry[name], settings) for name in needed}
        digests: dict[str, str] = {}
        for name in needed:
            stage = registry[name]
            before = [digests[upstream] for upstream in stage.after(settings)]
            digest_settings = {**stage.digest_settings(settings), **_model_facts(stage, settings)}
            digests[name] = digest_of(name, digest_settings, models[name], stage.data_version, before)
        named = settings.output.session
        sessions = {name: link[:8] if named == "auto" else named for name, link in digests.items()}
        return cls(digests, sessions, models)


def choose_stages(stages: Sequence[str] | None, settings: Settings, registry: Registry) -> tuple[str, ...]:
    """The stages to do, in the pipeline's order; without a choice, all whose output is not given by somebody."""
    if not stages:
        return tuple(name for name, stage in registry.items() if not stage.is_replaced(settings))
    for name in stages:
        if name not in registry:
            near = difflib.get_close_matches(name, list(registry), n=1)
            hint = f"did you mean {near[0]}?" if near else f"stages are {', '.join(registry)}"
            raise UsageError(f"no stage {name!r}", hint)
    return tuple(name for name in registry if name in stages)


def _with_upstream(settings: Settings, registry: Registry, chosen: Sequence[str]) -> list[str]:
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += registry[name].after(settings)
    return [name for name in registry if name in found]


def _model_sha256(stage: Stage, settings: Settings) -> str:
    source = stage.model(settings)
    if source is None:
        return ""
    from membrain_cloud.pipeline.models import header_for, model_sha256

    if stage.model_task:
        header_for(stage.model_task, source)
    return model_sha256(source)


def _model_facts(stage: Stage, settings: Settings) -> dict[str, Any]:
    """What a registry says of the stage's network in place of its file; mostly nothing, and then no part of a link."""
    source = stage.model(settings)
    if source is None:
        return {}
    from membrain_cloud.pipeline.models import registry_facts

    facts = registry_facts(source)
    return {"model_facts": facts} if facts else {}
