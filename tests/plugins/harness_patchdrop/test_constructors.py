"""What a caller in Python gives is checked as what a command line gives: one clear error, never another experiment."""

from __future__ import annotations

import pytest

from harness.errors import ParameterError
from harness_patchdrop.corner import ImageInCorner
from harness_patchdrop.lesion import Lesion
from harness_patchdrop.position_drop import CentrePatchDrop
from harness_patchdrop.random_drop import OffsetPatchDrop, PixelDrop, RandomPatchDrop
from harness_patchdrop.salient_drop import MatchedPatchDrop, NonsalientPatchDrop, SalientPatchDrop
from harness_patchdrop.scan_drop import LinearScanDrop, SequentialScanDrop
from harness_patchdrop.shuffle import PatchShuffle
from harness_patchdrop.token_drop import TokenDrop

WRONG = [
    (RandomPatchDrop, {"fill": "x"}),
    (RandomPatchDrop, {"grid": (7,) * 3}),
    (RandomPatchDrop, {"grid": "tokens/3"}),
    (RandomPatchDrop, {"grid": (0, 7)}),
    (RandomPatchDrop, {"mask_scope": "foo"}),
    (RandomPatchDrop, {"fill": "constant", "colour": (5, 0, 0)}),
    (OffsetPatchDrop, {"border": "x"}),
    (PixelDrop, {"blur": 0}),
    (CentrePatchDrop, {"grid": "7by7"}),
    (LinearScanDrop, {"direction": "diagonal"}),
    (SequentialScanDrop, {"fill": None}),
    (SalientPatchDrop, {"head": -1}),
    (SalientPatchDrop, {"saliency": "self", "head": "foo"}),
    (NonsalientPatchDrop, {"background_axis": "x"}),
    (MatchedPatchDrop, {"of": "x"}),
    (TokenDrop, {"mask_scope": "x"}),
    (Lesion, {"count": "x"}),
    (Lesion, {"draw": "x"}),
    (Lesion, {"before": "head"}),
    (PatchShuffle, {"identity": "x"}),
    (PatchShuffle, {"rows": 0}),
    (ImageInCorner, {"corner": "middle"}),
    (ImageInCorner, {"scale": 2}),
    (ImageInCorner, {"scale": 0}),
]


@pytest.mark.parametrize(("kind", "given"), WRONG, ids=[f"{kind.__name__}-{given}" for kind, given in WRONG])
def test_wrong_values_are_refused_by_name(kind, given):
    with pytest.raises(ParameterError, match=str(list(given)[-1])):
        kind(**given)


def test_values_are_read_as_on_a_command_line():
    assert RandomPatchDrop(grid="7x7").info.params["grid"] == [7, 7]
    assert RandomPatchDrop(grid=14).info.params == RandomPatchDrop().info.params


@pytest.mark.parametrize("saliency", ["mask", "gradient"])
def test_what_says_nothing_of_a_map_without_attention_is_refused(ready, saliency):
    with pytest.raises(ParameterError, match="head=3 and block=-1 say nothing"):
        ready(SalientPatchDrop(saliency=saliency, head=3))
