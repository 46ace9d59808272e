"""Weights under a network's own names: timm's renaming, and nothing else that its functions do on the way."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
Rename = Callable[[State, Any], State]


def under_own_names(state: State, net: Any, rename: Rename | None, *, unused: Sequence[str] = ()) -> State:
    """``state`` as timm's ``rename`` names it for ``net``, as far as that moves values and does not make or change any.

    timm's functions also resample other input sizes, fill in what is missing and leave out what they do not know, which
    would pass a foreign checkpoint for one that fits. Here what has no source in ``state`` is taken back, and what went
    nowhere comes back under its old name, so that strict loading finds both. ``unused``: patterns of names that no
    forward pass of the family reads.
    """
    given = {name: value for name, value in state.items() if not _matches(name, unused)}
    own = net.state_dict()
    if rename is None or own.keys() <= given.keys():
        return given
    try:
        found = rename(dict(given), net)
    except Exception:  # noqa: BLE001  # timm's functions take their own family for granted; loading says what is wrong
        return given
    moved, sources = _moved(given, found)
    return {**{name: value for name, value in given.items() if name not in sources}, **moved}


def _moved(given: State, found: State) -> tuple[State, set[str]]:
    """What of ``found`` holds values of ``given`` unchanged, and the names in ``given`` that went into it whole."""
    by_storage = {value.untyped_storage().data_ptr(): name for name, value in given.items() if value.numel()}
    parts: defaultdict[str, State] = defaultdict(dict)
    for name, value in found.items():
        source = by_storage.get(value.untyped_storage().data_ptr()) or _same_values(value, given)
        if source is not None:
            parts[source][name] = value
    # A tensor may be cut into several, such as a projection of queries, keys and values; but all of it must be there.
    whole = {
        source: pieces
        for source, pieces in parts.items()
        if sum(piece.numel() for piece in pieces.values()) == given[source].numel()
    }
    return {name: value for pieces in whole.values() for name, value in pieces.items()}, set(whole)


def _same_values(value: Tensor, given: State) -> str | None:
    """The one of ``given`` with the same values in any order: an axis that was moved makes a copy."""
    ordered = None
    for name, source in given.items():
        if source.numel() != value.numel() or source.dtype != value.dtype or value.numel() < 2:
            continue
        ordered = value.flatten().sort().values if ordered is None else ordered
        if bool((ordered == source.flatten().sort().values).all()) and bool(ordered[0] != ordered[-1]):
            return name
    return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
