"""The hooks: how a plugin tells the harness what it offers.

A plugin is a module (or object) named by an entry point of the group ``harness.plugins``. It implements any of these
functions, each decorated with :data:`hookimpl`. Every hook is called on every plugin; none is ``firstresult``.
Keep the module light: name what is heavy by ``target`` and let the harness import it when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from harness.entries import DatasetEntry, ModelEntry, PerturbationEntry, ProbeEntry, SummaryEntry
from harness.types import ResultRecord

if TYPE_CHECKING:
    from harness.api import RunResult
    from harness.planning import RunPlan

PROJECT = "harness"
"""The pluggy project name, and the prefix of every hook."""

ENTRY_POINT_GROUP = "harness.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def harness_register_models() -> Iterable[ModelEntry]:
    """Offer models.

    .. code-block:: python

        @hookimpl
        def harness_register_models():
            yield ModelEntry(
                name="my_net",
                target="my_package.net:build",
                summary="a small network of ours",
                view=View(resize=256, crop=224),
                capabilities=frozenset({Capability.LOGITS, Capability.POOLED}),
                label_space="imagenet1k",
            )
    """
    raise NotImplementedError


@hookspec
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer perturbations.

    .. code-block:: python

        @hookimpl
        def harness_register_perturbations():
            yield PerturbationEntry(
                name="darken",
                target="my_package.darken:Darken",
                summary="scale every pixel down",
                level=LevelSpec(name="factor", values=(0.25, 0.5), low=0, high=1, identity=0),
            )
    """
    raise NotImplementedError


@hookspec
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer probes.

    .. code-block:: python

        @hookimpl
        def harness_register_probes():
            yield ProbeEntry(name="margin", target="my_package.margin:Margin", summary="margin of the true class",
                             needs=frozenset({Capability.LOGITS}), needs_label_space=True, headline="margin")
    """
    raise NotImplementedError


@hookspec
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer datasets.

    .. code-block:: python

        @hookimpl
        def harness_register_datasets():
            yield DatasetEntry(name="leaves", target="my_package.leaves:Leaves", summary="photographs of leaves")
    """
    raise NotImplementedError


@hookspec
def harness_register_summaries() -> Iterable[SummaryEntry]:
    """Offer summaries: numbers over several cells.

    .. code-block:: python

        @hookimpl
        def harness_register_summaries():
            yield SummaryEntry(name="worst", target="my_package.worst:Worst", summary="lowest accuracy of a sweep")
    """
    raise NotImplementedError


@hookspec
def harness_registry_files() -> Iterable[Path]:
    """Offer registry files with presets and suites, read after the packaged one and before the user's.

    .. code-block:: python

        @hookimpl
        def harness_registry_files():
            yield Path(__file__).with_name("presets.yaml")
    """
    raise NotImplementedError


@hookspec
def harness_run_started(plan: RunPlan) -> None:
    """Observe that a run begins. Observers cannot change a run; one that raises is reported and left out.

    .. code-block:: python

        @hookimpl
        def harness_run_started(plan):
            print(f"{len(plan.cells)} cells")
    """


@hookspec
def harness_record_written(record: ResultRecord) -> None:
    """Observe a record after it has been written and synced.

    .. code-block:: python

        @hookimpl
        def harness_record_written(record):
            my_tracker.log(record.as_dict())
    """


@hookspec
def harness_run_finished(result: RunResult) -> None:
    """Observe the end of a run, whole or not.

    .. code-block:: python

        @hookimpl
        def harness_run_finished(result):
            print(f"{len(result.records)} records")
    """
