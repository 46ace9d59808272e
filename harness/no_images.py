"""The dataset of probes that measure a model itself: no images at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from harness.errors import DataError
from harness.protocols import DatasetInfo, SplitIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.types import View

NAME = "no_images"


class NoImages:
    """One split, ``all``, of no images and no classes."""

    @property
    def info(self) -> DatasetInfo:
        """The card of no images."""
        return DatasetInfo(
            name=NAME,
            classes=(),
            label_space=None,
            splits=("all",),
            query_split="all",
            whole_split="all",
            support_split=None,
            fingerprint=NAME,
        )

    def index(self, split: str) -> SplitIndex:
        """Nothing. Raises :class:`~harness.errors.DataError` for another split than ``all``."""
        import numpy as np

        if split != "all":
            raise DataError(f"{NAME}: no split {split!r}", hint="its only split is all")
        return SplitIndex(ids=(), labels=np.empty(0, np.int64))

    def load(self, split: str, positions: Sequence[int], view: View) -> NoReturn:  # noqa: ARG002  # the contract's signature
        """There is nothing to load. Raises IndexError."""
        raise IndexError(f"{NAME} holds no images")
