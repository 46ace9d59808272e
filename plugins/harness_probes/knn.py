"""Descriptor of the k-nearest-neighbour probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.entries import ProbeEntry


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer nothing yet."""
    return ()
