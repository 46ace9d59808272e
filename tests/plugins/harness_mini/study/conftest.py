"""A zoo of untrained networks in place of the one that ships, asked about few images that are drawn once."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness_mini import cards
from harness_mini.cards import weights_file, write_card
from harness_mini.networks import NETWORKS, build
from harness_mini.shapes_dataset import NovelShapes, Shapes
from harness_mini.study import findings, laboratory
from harness_mini.study.laboratory import Study
from harness_mini.study.measures import Images
from harness_mini.training.recipes import digest, recipe_of

ASKED = 24
"""Images of test and stylized."""
CONFLICTING = 144
FEW_SHOT = 100
REPLICAS = ("vit_mini", "cnn_mini")


class KeptShapes(Shapes):
    load = functools.cache(Shapes.load)


class KeptNovelShapes(NovelShapes):
    load = functools.cache(NovelShapes.load)


def put(stem: str, net: torch.nn.Module, folder: Path, *, seed: int = 0) -> None:
    """Weights and their card, as if they were trained by their recipe."""
    save_file(net.state_dict(), weights_file(stem, folder))
    sha256 = hashlib.sha256(weights_file(stem, folder).read_bytes()).hexdigest()
    recipe = replace(recipe_of(stem.partition(".")[0]), seed=seed)
    write_card(stem, {"name": stem, "sha256": sha256, "recipe_sha256": digest(recipe)}, folder)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, tell_apart: Callable[..., torch.nn.Module]) -> Path:
    """Seeds 1 and 2 of the architectures that are compared."""
    folder = tmp_path_factory.mktemp("replicas")
    for name in REPLICAS:
        for seed in (1, 2):
            put(f"{name}.seed{seed}", tell_apart(build(name, seed=seed)), folder, seed=seed)
    return folder


@pytest.fixture(scope="module")
def untrained_zoo(
    tmp_path_factory: pytest.TempPathFactory, tell_apart: Callable[..., torch.nn.Module]
) -> Iterator[Path]:
    """The folder of the networks that stand for the shipped ones."""
    folder = tmp_path_factory.mktemp("untrained_zoo")
    for i, name in enumerate(NETWORKS):
        put(name, tell_apart(build(name, seed=10 + i)), folder)

    @functools.cache
    def conflict_images(contrast: float = 1.0) -> Images:
        dataset = KeptShapes(query="cue_conflict", texture_contrast=contrast)
        return Images(dataset=dataset, split="cue_conflict", count=CONFLICTING)

    def few(*, dataset: NovelShapes, split: str, count: int) -> Images:
        return Images(dataset=dataset, split=split, count=FEW_SHOT)

    with pytest.MonkeyPatch.context() as patch:
        for function in (cards.weights_file, cards.card_file, cards.read_card):
            patch.setattr(function, "__defaults__", (folder,))
        patch.setattr(laboratory, "IMAGES", ASKED)
        patch.setattr(laboratory, "Shapes", functools.cache(KeptShapes))
        patch.setattr(laboratory, "conflict_images", conflict_images)
        patch.setattr(findings, "NovelShapes", functools.cache(KeptNovelShapes))
        patch.setattr(findings, "Images", few)
        yield folder


@pytest.fixture(scope="module")
def study(untrained_zoo: Path, replicas: Path) -> Study:
    """The study with three seeds of either architecture."""
    return Study(replicas)


@pytest.fixture(scope="module")
def study_of_one_seed(untrained_zoo: Path) -> Study:
    """The study as the package alone allows it."""
    return Study(None)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """``changes(measurement, study, prediction)``: the change of each accuracy that a measurement asks for."""

    def get(measurement, study, prediction):
        asked = []

        def correct(model, images, change=None, head=None):
            asked.append((model.info.name, images, change))
            return torch.arange(ASKED).double().numpy()

        with monkeypatch.context() as patch:
            patch.setattr(findings.measures, "correct", correct)
            measurement(study, prediction)
        return asked

    return get
