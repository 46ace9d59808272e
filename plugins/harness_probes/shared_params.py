"""Parameters that several probes have: which tokens they read, and how many support images of a class."""

from __future__ import annotations

from typing import Any

from harness.params import param


def features_param() -> Any:
    """The field ``features`` of a probe's parameters; its class makes the text canonical in ``__post_init__``."""
    return param(
        "pooled",
        help="token ensemble: pooled, last, ensemble4, all, dino, dinov2, each also with +patch or +patches; or "
        "TOKENS/BLOCKS such as cls/last4, cls+dist/-1, patches/all",
    )


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One value, or several, as a constructor in Python may be given either."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def per_class_param() -> Any:
    """The field ``per_class`` of probes that keep or average the whole support."""
    return param(
        None,
        help="at most so many support images of every class, spread over the split; none takes all",
        unit="images",
        low=1,
    )
