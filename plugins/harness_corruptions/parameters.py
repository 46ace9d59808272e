"""Parameters and the strength axis of all corruptions, light enough to be read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from harness.errors import ParameterError
from harness.params import param
from harness.types import LevelSpec

SEVERITY = LevelSpec(name="severity", values=(1, 2, 3, 4, 5), low=1, high=5, whole=True)
"""The strength axis of every corruption: the five severities of the benchmark."""

Variant: TypeAlias = Literal["imagecorruptions", "imagenet_c"]
Implementation: TypeAlias = Literal["native", "imagecorruptions"]
Lengths: TypeAlias = Literal["scaled", "fixed"]
Textures: TypeAlias = Literal["generated", "package"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionParams:
    """Which definition of a corruption, and which code computes it."""

    variant: Variant = param(
        "imagecorruptions",
        help="whose definition: that of the package imagecorruptions 1.1.2, or imagenet_c, the script that made "
        "ImageNet-C; they differ in elastic_transform, glass_blur, motion_blur, snow and zoom_blur, and never mix",
    )
    implementation: Implementation = param(
        "native",
        help="native: batched, on the device, random by image id; imagecorruptions: the package itself, image by "
        "image, as the reference",
    )
    lengths: Lengths = param(
        "scaled",
        help="scaled: lengths such as a blur's radius are those published for 224 pixels times shorter side / 224; "
        "fixed: as many pixels at any size, as implementation=imagecorruptions always has it",
    )
    quantise: bool = param(
        True,
        help="cut the result to the 256 values of an image file, as both references do; gradients pass straight "
        "through",
    )

    def __post_init__(self) -> None:
        if self.implementation == "imagecorruptions":
            for parameter, can in (("variant", "imagecorruptions"), ("quantise", True)):
                if (given := getattr(self, parameter)) != can:
                    raise ParameterError(
                        f"implementation=imagecorruptions takes no {parameter}={given}: the package has its own "
                        "definition and 8-bit results",
                        hint=f"leave {parameter} out, or use implementation=native",
                    )
            # What the package does whatever it is told stands in the record.
            object.__setattr__(self, "lengths", "fixed")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrostParams(CorruptionParams):
    """Parameters of ``frost``."""

    textures: Textures = param(
        "generated",
        help="the frost: generated textures of our own, or the photographs that the package imagecorruptions ships, "
        "which implementation=imagecorruptions always takes",
    )

    def __post_init__(self) -> None:
        CorruptionParams.__post_init__(self)
        if self.implementation == "imagecorruptions":
            object.__setattr__(self, "textures", "package")
