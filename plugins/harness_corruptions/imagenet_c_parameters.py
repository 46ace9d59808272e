"""Parameters of the dataset ``imagenet_c``, light enough to be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.params import param

Corruption: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
    "spatter",
    "saturate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageNetCParams:
    """Parameters of ``imagenet_c``. What the folder holds enters a key through the dataset's fingerprint."""

    root: str = param(
        help="the folder of the unpacked archives, ROOT/CORRUPTION/SEVERITY/WNID/*.JPEG, or with the archives' own "
        "folders around it, ROOT/noise/CORRUPTION/...; --data DIR sets it",
        locates=True,
    )
    corruption: Corruption = param(help="which of the 19 corruptions")
    severity: int = param(help="which of the five severities; NAME@1,2 or NAME@all sets it", low=1, high=5)
    on_error: Literal["fail", "skip"] = param("fail", help="what to do about an image that cannot be decoded")
