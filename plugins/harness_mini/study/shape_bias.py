"""Shape bias: which cue decides where the two conflict (Geirhos et al., arXiv 1811.12231; protocols section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from harness.stats import Interval, wilson
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import measures
from harness_mini.study.measures import Images, Values


@cache
def conflict_images(contrast: float = 1.0) -> Images:
    """Cue conflict with the textures' contrast scaled."""
    return Images(dataset=Shapes(query="cue_conflict", texture_contrast=contrast), split="cue_conflict", count=2016)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBias:
    """Per conflicting image: whether the decision was its shape's class, and whether its texture's."""

    by_shape: Values
    by_texture: Values

    @property
    def value(self) -> float:
        """Shape decisions among those for either cue (Geirhos et al., arXiv 1811.12231); nan where there are none."""
        decided = self.by_shape.sum() + self.by_texture.sum()
        return float(self.by_shape.sum() / decided) if decided else math.nan

    @property
    def coverage(self) -> float:
        """Share of the images that got either cue's class: a ratio of few decisions says little."""
        return float((self.by_shape + self.by_texture).mean())

    @property
    def interval(self) -> Interval:
        """Wilson's, over the decided images."""
        decided = int(self.by_shape.sum() + self.by_texture.sum())
        return wilson(int(self.by_shape.sum()), decided)


def shape_bias(decisions: Values, images: Images) -> ShapeBias:
    """Shape bias over the images whose cues conflict; the others are left out."""
    conflict = measures.labels(images, "conflict") == 1
    shape, texture = (measures.labels(images, column)[conflict] for column in ("shape", "texture"))
    chosen = decisions[conflict]
    return ShapeBias(by_shape=(chosen == shape).astype(float), by_texture=(chosen == texture).astype(float))
