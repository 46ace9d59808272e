"""``python -m harness_mini.study.frozen``: digests of generator, recipes and predictions, taken before evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from harness.types import JSONValue
from harness_mini.generator import outlines, textures
from harness_mini.generator.scenes import draw
from harness_mini.shapes_dataset import GENERATOR_VERSION
from harness_mini.study import predictions
from harness_mini.training.recipes import RECIPES, digest

FILE = Path(__file__).with_name("frozen.json")


def state() -> Mapping[str, JSONValue]:
    """What the code says now; :data:`FILE` holds what it said when the study was frozen."""
    return {
        "generator_version": GENERATOR_VERSION,
        "drawn_sha256": drawn_digest(),
        "recipes_sha256": {name: digest(recipe) for name, recipe in RECIPES.items()},
        "predictions_sha256": predictions.digest(),
    }


def drawn_digest(images: int = 100) -> str:
    """SHA-256 (hex) over every number drawn for the first ``images`` of four splits, as little-endian int64."""
    found = hashlib.sha256()
    for split in ("train", "test", "cue_conflict", "stylized"):
        scenes = draw(
            0,
            [f"{split}/{position:06d}" for position in range(images)],
            styles=len(textures.STYLE_TEXTURES),
            clutter_outlines=len(outlines.NEUTRAL_OUTLINES),
            irregular=split == "stylized",
        )
        for name, values in sorted(scenes.arrays().items()):
            found.update(name.encode() + values.astype("<i8").tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    FILE.write_text(json.dumps(state(), indent=2) + "\n")
    print(FILE)
