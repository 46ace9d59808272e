"""Descriptors of the corruptions and of what sums them up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import DatasetEntry, PerturbationEntry, SummaryEntry
from harness.hookspecs import hookimpl
from harness_corruptions.imagenet_c_parameters import ImageNetCParams
from harness_corruptions.parameters import SEVERITY, CorruptionParams, FrostParams

if TYPE_CHECKING:
    from collections.abc import Iterable

BENCHMARK = (
    ("gaussian_noise", "noise:GaussianNoise", "normal noise on every channel of every pixel"),
    ("shot_noise", "noise:ShotNoise", "Poisson noise, as from too few photons"),
    ("impulse_noise", "noise:ImpulseNoise", "salt and pepper on single channels"),
    ("defocus_blur", "blur:DefocusBlur", "blur by a disk, as of a lens out of focus"),
    ("glass_blur", "glass:GlassBlur", "pixels exchanged with near ones, as seen through frosted glass"),
    ("motion_blur", "motion:MotionBlur", "blur along a line of random angle"),
    ("zoom_blur", "zoom:ZoomBlur", "the mean of the image at rising zoom"),
    ("snow", "snow:Snow", "bright flakes falling at a random angle over a whitened image"),
    ("frost", "frost:Frost", "a random crop of frost laid over the image"),
    ("fog", "fog:Fog", "a plasma fractal of bright haze"),
    ("brightness", "colour:Brightness", "value of HSV raised"),
    ("contrast", "colour:Contrast", "pixels drawn towards the image's mean colour"),
    ("elastic_transform", "elastic:ElasticTransform", "small regions stretched and contracted"),
    ("pixelate", "pixelate:Pixelate", "reduced and enlarged by boxes"),
    ("jpeg_compression", "jpeg:JpegCompression", "encoded as JPEG of low quality and decoded"),
)
"""The 15 corruptions that mCE is the mean over, in the benchmark's order: name, target, summary."""

EXTRA = (
    ("speckle_noise", "noise:SpeckleNoise", "normal noise in proportion to each pixel"),
    ("gaussian_blur", "blur:GaussianBlur", "blur by a Gaussian"),
    ("spatter", "spatter:Spatter", "drops of water, or of mud from severity 4 on"),
    ("saturate", "colour:Saturate", "saturation of HSV scaled and shifted"),
)
"""The 4 further ones, which were meant for validation and have no place in mCE."""

_DETERMINISTIC = frozenset(
    ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur", "saturate")
)


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer the 19 corruptions."""
    for names, tag in ((BENCHMARK, "imagenet_c"), (EXTRA, "imagenet_c_extra")):
        for name, target, summary in names:
            yield PerturbationEntry(
                name=name,
                target=f"harness_corruptions.{target}",
                summary=summary,
                params=FrostParams if name == "frost" else CorruptionParams,
                level=SEVERITY,
                stochastic=name not in _DETERMINISTIC,
                baselined=True,
                tags=("corruption", tag),
            )


@hookimpl
def harness_register_datasets() -> Iterable[DatasetEntry]:
    """Offer ``imagenet_c``."""
    yield DatasetEntry(
        name="imagenet_c",
        target="harness_corruptions.imagenet_c:ImageNetC",
        summary="the published files of ImageNet-C, one corruption at one severity, never resized",
        params=ImageNetCParams,
        label_space="imagenet1k",
        level=SEVERITY,
        level_param="severity",
        baselined=True,
        offline=False,
    )


@hookimpl
def harness_register_summaries() -> Iterable[SummaryEntry]:
    """Offer ``corruption_error`` and ``mce``."""
    yield SummaryEntry(
        name="corruption_error",
        target="harness_corruptions.corruption_error:CorruptionError",
        summary="error over the severities of each corruption made in memory, and mCE against --baseline",
        consumes=("level", "perturbation", "seed"),
        requires_clean=False,
        min_cells=5,
        baselined=True,
    )
    yield SummaryEntry(
        name="mce",
        target="harness_corruptions.mce_files:MCE",
        summary="mCE and relative mCE on the published files of ImageNet-C, by AlexNet's errors on them",
        consumes=("dataset",),
        requires_clean=False,
        min_cells=5,
        baselined=True,
    )
