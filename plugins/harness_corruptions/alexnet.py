"""AlexNet's error rates on the published files of ImageNet-C: what mCE divides by, and nothing else may be."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ALEXNET_ERRORS: Mapping[str, tuple[float, float, float, float, float]] = MappingProxyType(
    {
        "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
        "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
        "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
        "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
        "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
        "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
        "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
        "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
        "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
        "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
        "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
        "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    }
)
"""Top-1 error at severities 1 to 5 of the 15 corruptions, in the benchmark's order, over 50,000 files each.

From the benchmark's authors (hendrycks/robustness, issue 10); the row means are the constants that published mCE are
made with. Severity 3 of snow and of elastic_transform really is easier than severity 2. None exist for the 4 extras.
"""

ALEXNET_CLEAN_ERROR = 0.43478
"""Top-1 error of AlexNet on the clean validation set of ImageNet, for relative mCE.

That of the torchvision weights (accuracy 56.522 %); the paper (arXiv 1903.12261, table 1) rounds it to 43.5 %.
"""
