"""Presets held against the entries they use: names already taken, and parameters, without importing a target."""

from __future__ import annotations

import dataclasses
import typing
from functools import cache
from typing import TYPE_CHECKING, Any

from harness.discovery import BUILTIN
from harness.errors import ParameterError, RegistryError
from harness.naming import did_you_mean
from harness.params import coerce, describe
from harness.registry import Claim
from harness.registry_file import PACKAGED
from harness.types import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.manager import HarnessManager, Offer
    from harness.registry import Preset
    from harness.types import Kind


def entry_claims(manager: HarnessManager) -> dict[Kind, dict[str, Claim]]:
    """Every name and alias that plugins give by themselves, with its holder."""
    return {
        kind: {
            name: Claim(
                owner=f"an entry of {offer.owner}",
                plugin=offer.plugin,
                core=offer.core,
                name=offer.entry.name,
                reserved=offer.core and offer.plugin == BUILTIN,
            )
            for offer in sorted(manager.entries(kind), key=lambda offer: offer.core)  # the harness' own prevail
            if not offer.entry.qualified
            for name in (offer.entry.name, *offer.entry.aliases)
        }
        for kind in KINDS
    }


def offers_for(manager: HarnessManager, preset: Preset) -> list[Offer]:
    """The entries that ``preset.use`` can mean: one, none, or several that clash.

    A file's own plugin comes first, and the harness' own plugins for the packaged file, so that installing a plugin
    with an entry of the same name changes no preset.
    """
    plugin, _, name = preset.use.rpartition(":")
    offers = [
        offer
        for offer in manager.entries(preset.kind)
        if name in (offer.entry.name, *offer.entry.aliases)
        and (plugin == offer.plugin or not (plugin or offer.entry.qualified))
    ]
    own = [offer for offer in offers if (offer.core if preset.layer == PACKAGED else offer.plugin == preset.layer)]
    return own if len(own) == 1 else offers


def check_preset(preset: Preset, offers: list[Offer]) -> None:
    """Hold the parameters of a preset against its entry; one that may still be given elsewhere may be missing.

    Raises :class:`RegistryError` with file, line and key path. A preset whose entry is not there passes: its plugin
    may be kept out, and asking for the name says so.
    """
    if len(offers) != 1:
        return
    schema = offers[0].entry.params
    names = [f.name for f in dataclasses.fields(schema)]
    for name, value in preset.params.items():
        place = f"{preset.param_sources[name]}: {preset.path}.params.{name}"
        if name not in names:
            hint = did_you_mean(name, names) or f"parameters of {preset.use} are: {', '.join(names) or 'none'}"
            raise RegistryError(f"{place}: {preset.use} has no parameter {name!r}", hint=hint)
        try:
            coerce(_single_parameter(schema, name), {name: value}, "")
        except ParameterError as error:
            raise RegistryError(f"{place}{error.message.removeprefix(f': {name}')}", hint=error.hint) from error


def coerce_params(schema: type, given: Mapping[str, object], where: str) -> Any:
    """:func:`harness.params.coerce`, with what the dataclass itself objects to as a :class:`ParameterError` too."""
    try:
        return coerce(schema, given, where)
    except ValueError as error:
        raise ParameterError(f"{where}: {error}") from error


def required_params(schema: type) -> tuple[str, ...]:
    """The parameters without a default."""
    return tuple(info.name for info in _described(schema) if info.required)


@cache
def _described(schema: type) -> list[Any]:
    return list(describe(schema))


@cache
def _single_parameter(schema: type, name: str) -> type:
    """A parameter dataclass of just one of the fields: a preset need not give all that are required."""
    (f,) = (f for f in dataclasses.fields(schema) if f.name == name)
    one = (name, typing.get_type_hints(schema)[name], dataclasses.field(metadata=f.metadata))
    return dataclasses.make_dataclass(schema.__name__, [one], frozen=True, kw_only=True)
