"""Thresholds of the summary ``gradient_masking``, light enough to be read without NumPy."""

from __future__ import annotations

from dataclasses import dataclass

from harness.params import param


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingParams:
    """Parameters of ``gradient_masking``."""

    zero_gradient: float = param(
        0.1, help="share of gradient entries that are exactly zero above which is a flag", low=0, high=1
    )
    restart_gain: float = param(
        0.05, help="accuracy that restarts may take beyond the first before it is a flag", low=0, high=1
    )
    large_eps: float = param(
        32.0, help="l-inf budget at which nothing should be left above chance", unit="1/255", low=0, high=255
    )
    alpha: float = param(
        0.05, help="chance of a false flag among all comparisons of a kind (Holm)", low=0.0001, high=0.5
    )
