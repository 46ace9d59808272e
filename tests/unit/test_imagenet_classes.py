"""ImageNet's class ids: where they stand, and a damaged source of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import imagenet_classes
from harness.errors import DataError
from harness.imagenet_classes import imagenet_wnids


def test_imagenets_ids_stand_in_their_published_places():
    wnids = imagenet_wnids()
    assert len(wnids) == 1000
    # Well-known indices: tench, ostrich, tabby, Persian cat, airliner, vase, toilet tissue.
    published = {0: "n01440764", 9: "n01518878", 281: "n02123045", 283: "n02123394", 404: "n02690373"}
    published |= {883: "n04522168", 999: "n15075141"}
    assert {index: wnids[index] for index in published} == published


@pytest.mark.parametrize("content", [None, "n01440764\n", "\n".join(f"n{i:08d}" for i in range(1000, 0, -1))])
def test_a_damaged_timm_is_told(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "data" / "_info").mkdir(parents=True)
        (tmp_path / "data" / "_info" / "imagenet_synsets.txt").write_text(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(imagenet_classes.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError) as caught:
        imagenet_wnids()
    assert caught.value.hint == "reinstall timm"
    monkeypatch.setattr(imagenet_classes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="not installed"):
        imagenet_wnids()
