"""Descriptor of the correlation of clean and perturbed features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.entries import ProbeEntry
from harness.errors import DataError, ParameterError
from harness.hookspecs import hookimpl
from harness.params import param
from harness.token_ensemble import TokenEnsemble
from harness.types import Capability

if TYPE_CHECKING:
    from collections.abc import Iterable

Axis = Literal["per_image", "per_dim"]
By = Literal["none", "class", "group"]


def file_sha256(path: str) -> str:
    """SHA-256 (hex) of a file. Raises :class:`~harness.errors.DataError` for one that cannot be read."""
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", hint="groups names a CSV file") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationParams:
    """Parameters of ``correlation``."""

    features: str = param(
        "pooled",
        help="the feature vector, as other probes name it: pooled, cls/last, cls/3/raw (a block, before the final "
        "norm), patches/-2 (mean patch token)",
    )
    axis: Axis = param(
        "per_image", help="over the dimensions of each image, then averaged; or over the images, for each dimension"
    )
    by: By = param("none", help="also by class, or by the groups of classes that the file of groups names")
    groups: str | None = param(
        None, help="CSV with the columns class and group, a row for every class of the dataset", locates=True
    )
    groups_sha256: str | None = param(None, help="SHA-256 of the file of groups; filled in from the file")
    reference_images: int = param(
        2048, help="clean images whose mean centres, and which others are paired with", unit="images", low=2
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", TokenEnsemble.parse(self.features).text)
        if self.axis == "per_dim" and self.by != "none":
            raise ParameterError(
                f"correlation: axis=per_dim correlates over all images, and by={self.by} has no meaning",
                hint="take axis=per_image",
            )
        if (self.by == "group") != (self.groups is not None):
            raise ParameterError(
                "correlation: by=group and groups=FILE belong together",
                hint="groups names a CSV with the columns class and group",
            )
        if self.groups is not None:
            # What the file says decides numbers, so it must stand in the key, wherever the file lies.
            found = file_sha256(self.groups)
            if self.groups_sha256 not in (None, found):
                raise ParameterError(
                    f"correlation: {self.groups} has the digest {found[:16]}, groups_sha256 says {self.groups_sha256}",
                    hint="leave groups_sha256 out, or give the file that was meant",
                )
            object.__setattr__(self, "groups_sha256", found)


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``correlation``."""
    yield ProbeEntry(
        name="correlation",
        target="harness_inspect.correlation_probe:CorrelationProbe",
        summary="Pearson correlation of clean and perturbed features, beside that of mismatched images",
        params=CorrelationParams,
        compares=True,
        reference=True,
        needs=frozenset({Capability.POOLED}),
        headline="correlation",
        features_param="features",
        exhibit="harness_inspect.correlation_exhibit:exhibit",
    )
