"""Subjects by name: what the catalog knows of a component, made ready for the checks."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.built_facts import with_exact_facts
from harness.discovery import BUILTIN
from harness.entries import ModelEntry
from harness.hookspecs import ENTRY_POINT_GROUP
from harness.testing.kit import SampleOptions, Subject
from harness.weights import WeightsChoice

if TYPE_CHECKING:
    from harness.catalog import Catalog
    from harness.types import Kind


def resolve_subject(
    catalog: Catalog, kind: Kind, name: str, *, params: Mapping[str, Any], sample: SampleOptions
) -> Subject:
    """The component called ``name`` (or its selector text) with ``params`` added; models get random weights.

    Raises what :meth:`Catalog.resolve` does for names and parameters that are not there.
    """
    resolved = with_exact_facts(catalog.resolve(kind, name, overrides=params))
    entry = resolved.entry
    facts: dict[str, Any] = {}

    def make() -> Any:
        if isinstance(entry, ModelEntry):
            return catalog.load_target(entry)(**resolved.arguments, weights=WeightsChoice(origin="random", seed=0))
        return catalog.instantiate(resolved)

    if isinstance(entry, ModelEntry):
        facts = {
            "view": resolved.view,
            "label_space": resolved.label_space,
            "capabilities": resolved.capabilities,
        }
    return Subject(
        entry=entry,
        make=make,
        params=resolved.ref.params,
        facts=facts,
        plugin=plugin_module(resolved.plugin),
        sample=sample,
    )


def plugin_module(plugin: str) -> str | None:
    """The module that an installed plugin, or one handed in as a module, consists of; None for any other object."""
    if plugin == BUILTIN:
        return "harness.builtin"
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=plugin)
    modules = {point.module for point in points}
    if len(modules) == 1:
        return modules.pop()
    return plugin if plugin in sys.modules else None
