"""Away from the caches of the machine; and, where a test asks for it, away from the weights that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness_mini import cards


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
