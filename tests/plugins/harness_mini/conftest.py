"""Away from the caches of the machine and the weights that ship; networks that tell images apart without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness_mini import cards
from harness_mini.shapes_dataset import Shapes
from harness_mini.training.lessons import heads, load, whole


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def package_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in place of the one whose weights ship with the package."""
    folder = tmp_path / "package_weights"
    folder.mkdir()
    for function in (cards.weights_file, cards.card_file, cards.read_card):
        monkeypatch.setattr(function, "__defaults__", (folder,))
    return folder


@pytest.fixture(scope="session")
def tell_apart() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Make a network say something else of every image, as a trained one does: else no accuracy could ever change.

    Moves every number off its initial value, and takes from each head what it says of all images alike.
    """
    lesson = whole(load(Shapes(), "test", 0, 48))

    @torch.no_grad()
    def change(net: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(0)
        for value in net.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        layers = [getattr(net, name, None) for name in ("fc", "head", "head_dist")]
        linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
        for layer, scores in zip(linear, heads(net.eval(), lesson) if linear else (), strict=True):
            layer.bias.sub_(scores.mean(dim=0))
        return net

    return change
