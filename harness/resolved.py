"""One component as it was asked for: its entry, every parameter, and the facts that planning needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from harness.entries import Entry, ModelEntry
from harness.params import canonical
from harness.preset_checks import coerce_params
from harness.types import Capability, Kind, ResolvedRef, View

if TYPE_CHECKING:
    from harness.registry import Preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """One component as it was asked for, with every parameter, and the facts planning needs; nothing is imported.

    ``params`` is an instance of ``entry.params``. ``levels`` is None where none were asked for. ``view``,
    ``label_space``, ``capabilities`` are those of the preset where it refines its entry. ``tag`` names the pretrained
    weights: their address, ``weights_url`` (with ``weights_sha256`` where their digest is known), or the value of the
    entry's ``tag_param``; None where there are none, or they are embedded.
    """

    kind: Kind
    name: str
    entry: Entry
    plugin: str
    ref: ResolvedRef
    params: Any
    preset: Preset | None = None
    levels: tuple[float, ...] | None = None
    view: View | None = None
    label_space: str | None = None
    capabilities: frozenset[Capability] = frozenset()
    tag: str | None = None
    architecture: str | None = None
    """The value of the entry's ``tag_param``, whatever the weights are."""
    weights_url: str | None = None
    weights_sha256: str | None = None

    @property
    def is_preset(self) -> bool:
        """Whether it is a preset with no other parameters than the preset's own."""
        return self.preset is not None and self.ref.params == canonical(
            coerce_params(self.entry.params, self.preset.params, "")
        )

    @property
    def published_top1(self) -> float | None:
        """Percent of ImageNet-1k's validation images that the preset, as it stands, is published to get right."""
        return self.preset.published_top1 if self.preset is not None and self.is_preset else None

    @property
    def published_view(self) -> View | None:
        """The view in which :attr:`published_top1` was measured."""
        return self.view if self.preset is None else self.preset.published_view or self.view

    @property
    def embedded(self) -> str | None:
        """What names embedded weights; None where the weights are others, or there are none."""
        entry = self.entry
        if not isinstance(entry, ModelEntry) or entry.weights_params:
            return None
        return entry.embedded_name

    @property
    def arguments(self) -> dict[str, Any]:
        """The parameters as keyword arguments of the entry's target."""
        return {f.name: getattr(self.params, f.name) for f in fields(self.params)}
