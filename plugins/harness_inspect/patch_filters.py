"""Descriptor of the inspection of the first layer's filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFiltersParams:
    """Parameters of ``patch_filters``."""

    components: int = param(28, help="how many principal components are shown and summed up", low=1, high=1024)


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``patch_filters``."""
    yield ProbeEntry(
        name="patch_filters",
        target="harness_inspect.patch_filters_probe:PatchFiltersProbe",
        summary="principal components of the first layer's filters over pixels, and how few of them say it all",
        params=PatchFiltersParams,
        of_model=True,
        headline="explained_variance",
        exhibit="harness_inspect.patch_filters_exhibit:exhibit",
    )
