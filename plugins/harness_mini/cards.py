"""Cards of trained networks: the JSON beside each weights file that says where the weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import WeightsError
from harness.types import JSONValue

WEIGHTS = Path(str(files("harness_mini"))) / "weights"
"""Where the weights that ship with the package lie."""


def weights_file(name: str, folder: Path = WEIGHTS) -> Path:
    """``NAME.safetensors`` in ``folder``."""
    return folder / f"{name}.safetensors"


def card_file(name: str, folder: Path = WEIGHTS) -> Path:
    """``NAME.json`` in ``folder``."""
    return folder / f"{name}.json"


def read_card(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """The card of a model. Raises :class:`~harness.errors.WeightsError` where there is none, or a broken one."""
    path = card_file(name, folder)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{name}: there is no card {path}", hint=f"python -m harness_mini.train {name} --out {folder}"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: cannot read the card {path}: {error}", hint="reinstall vit-harness") from error
    if not isinstance(card, dict) or not isinstance(card.get("sha256"), str):
        raise WeightsError(f"{name}: {path} is no card: it holds no sha256", hint="reinstall vit-harness")
    return card


def write_card(name: str, card: Mapping[str, JSONValue], folder: Path) -> Path:
    """Write a card, whole or not at all."""
    path = card_file(name, folder)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def shipped_digest(name: str) -> str | None:
    """SHA-256 (hex) of the weights that ship for ``name``, by its card; None where the package has no such card."""
    try:
        return str(read_card(name)["sha256"])
    except WeightsError:
        return None
