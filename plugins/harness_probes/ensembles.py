"""The parameter that says which tokens a probe reads, the same for every probe."""

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
