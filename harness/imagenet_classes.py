"""The class ids of ImageNet-1k, WordNet nouns, in the order of their class indices."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from harness.errors import DataError

_WNID = re.compile(r"n[0-9]{8}\Z")


def is_wnid(name: str) -> bool:
    """Whether a class name looks like an ImageNet id: ``n`` and the eight digits of a WordNet noun.

    >>> is_wnid("n01440764"), is_wnid("tench")
    (True, False)
    """
    return _WNID.match(name) is not None


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 ids of ImageNet-1k in the order of their class indices, from timm's data file; timm is not imported.

    Raises :class:`~harness.errors.DataError` where that file is missing or not what it should be.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("ImageNet's class ids are read from timm, which is not installed", hint="pip install timm")
    path = Path(spec.submodule_search_locations[0], "data", "_info", "imagenet_synsets.txt")
    try:
        wnids = tuple(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read ImageNet's class ids: {error}", hint="reinstall timm") from error
    if len(wnids) != 1000 or list(wnids) != sorted(set(wnids)) or not all(map(is_wnid, wnids)):
        raise DataError(f"{path}: expected the 1000 sorted class ids of ImageNet", hint="reinstall timm")
    return wnids
