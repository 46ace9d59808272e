"""The study: the zoo with its replicas, and the images that all measurements share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

import torch

from harness.api import Setup
from harness.errors import WeightsError
from harness.protocols import Model, Perturbation, PerturbationContext
from harness.types import ImageBatch
from harness.weights import WeightsChoice, file_digest
from harness_mini.cards import read_card, weights_file
from harness_mini.models import build_model
from harness_mini.networks import NUM_CLASSES
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import measures
from harness_mini.study.measures import Change, Images, Values
from harness_mini.study.predictions import Prediction
from harness_mini.study.shape_bias import ShapeBias, conflict_images, shape_bias
from harness_mini.training.recipes import digest, recipe_of
from harness_mini.zoo import VIEW

SEEDS = (0, 1, 2)
"""Training seeds of the networks whose architectures are compared; the first ships, the others are replicas."""

LEVELS = tuple(k / 10 for k in range(1, 10))
"""Ratios of random PatchDrop."""
IMAGES = 1200
"""Images of each split that are asked about."""


class Study:
    """The zoo, its replicas, and the images they are asked about."""

    def __init__(self, replicas: Path | None) -> None:
        self._replicas = replicas
        self.test = Images(dataset=Shapes(), split="test", count=IMAGES)
        self.stylized = Images(dataset=Shapes(), split="stylized", count=IMAGES)
        self.model = lru_cache(maxsize=None)(self._model)
        self.conflict_decisions = lru_cache(maxsize=None)(self._conflict_decisions)

    def seeds(self, name: str) -> list[int]:
        """The training seeds of ``name`` that there are: the shipped one and those of the replicas."""
        return [seed for seed in SEEDS if seed == 0 or self._replica(name, seed) is not None]

    def _model(self, name: str, seed: int = 0, untrained: bool = False) -> Model:
        if untrained:
            return build_model(name, weights=WeightsChoice(origin="random"))
        if seed == 0:
            return build_model(name, weights=WeightsChoice())
        path = self._replica(name, seed)
        if path is None:
            raise WeightsError(f"{name}: no weights of training seed {seed}", hint="give their folder with --replicas")
        return build_model(name, weights=WeightsChoice(origin="checkpoint", path=path))

    def _replica(self, name: str, seed: int) -> Path | None:
        if self._replicas is None:
            return None
        path = weights_file(f"{name}.seed{seed}", self._replicas)
        if not path.is_file():
            return None
        card = read_card(f"{name}.seed{seed}", self._replicas)
        known = {other["seed"]: other["sha256"] for other in read_card(name).get("other_seeds", [])}
        fault = None
        if card.get("recipe_sha256") != digest(replace(recipe_of(name), seed=seed)):
            fault = f"was trained by another recipe than {name} has now"
        elif file_digest(path) != card["sha256"]:
            fault = "is not the file that its card speaks of"
        elif known.get(seed, card["sha256"]) != card["sha256"]:
            fault = f"is not the seed {seed} whose accuracy stands in the card of {name}"
        if fault is not None:
            raise WeightsError(
                f"{path} {fault}",
                hint=f"python -m harness_mini.train {name} --seed {seed} --again --out {self._replicas}",
            )
        return path

    def per_seed(self, measure: Callable[[Model], Values], prediction: Prediction) -> tuple[list[float], list[float]]:
        """``measure``'s mean for each seed of either architecture."""
        sides = (prediction.first, prediction.second)
        first, second = ([float(measure(self.model(name, seed)).mean()) for seed in self.seeds(name)] for name in sides)
        return first, second

    @cached_property
    def drops(self) -> Mapping[float, Change]:
        """Random PatchDrop, the harness's own, at every level of the study."""
        catalog = Setup().open().catalog
        drop = cast(Perturbation, catalog.instantiate(catalog.resolve("perturbation", "patchdrop_random")))
        drop.prepare(
            PerturbationContext(
                seed=0, view=VIEW, device=torch.device("cpu"), dataset_fingerprint=Shapes().info.fingerprint,
                num_classes=NUM_CLASSES,
            )
        )  # fmt: skip

        def at(level: float) -> Change:
            return lambda batch: drop.apply(batch, drop.begin(batch), level).images

        return {level: at(level) for level in LEVELS}

    def saliency(self, batch: ImageBatch) -> torch.Tensor:
        """Attention of dino_mini's class token, the heads' mean: (N, cells)."""
        return measures.attention_maps(self.model("dino_mini"), batch.images).mean(dim=1)

    def _conflict_decisions(self, name: str, seed: int, head: str | None, contrast: float) -> Values:
        return measures.decisions(self.model(name, seed), conflict_images(contrast), head=head)

    def bias(self, name: str, seed: int = 0, head: str | None = None, contrast: float = 1.0) -> ShapeBias:
        """Shape bias of a model on the conflicting images."""
        return shape_bias(self.conflict_decisions(name, seed, head, contrast), conflict_images(contrast))
