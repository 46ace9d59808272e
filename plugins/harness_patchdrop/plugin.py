"""Descriptors of the PatchDrop family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.entries import PerturbationEntry
from harness.hookspecs import hookimpl
from harness.types import Capability
from harness_patchdrop.parameters import (
    RATIO,
    SCAN_RATIO,
    CellParams,
    OffsetDropParams,
    PixelDropParams,
    RandomDropParams,
    ScanDropParams,
    SequentialDropParams,
)
from harness_patchdrop.saliency_parameters import (
    BACKGROUND_MASS,
    MASS,
    SALIENCY_WORDS,
    MatchedDropParams,
    NonsalientDropParams,
    SalientDropParams,
)
from harness_patchdrop.token_parameters import (
    BLOCKS,
    LESION_RATE,
    TOKEN_RATIO,
    CornerParams,
    LesionParams,
    ShuffleParams,
    TokenDropParams,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOSS = "information_loss"


@hookimpl
def harness_register_perturbations() -> Iterable[PerturbationEntry]:
    """Offer every drop, shuffle and lesion of the family."""
    yield PerturbationEntry(
        name="patchdrop_random",
        target="harness_patchdrop.random_drop:RandomPatchDrop",
        summary="black out a random fraction of the cells of a grid, other cells for every image",
        params=RandomDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="patchdrop_offset",
        target="harness_patchdrop.random_drop:OffsetPatchDrop",
        summary="random PatchDrop shifted by half a cell, so that it does not line up with a model's patches",
        params=OffsetDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="pixeldrop",
        target="harness_patchdrop.random_drop:PixelDrop",
        summary="black out a random fraction of the pixels",
        params=PixelDropParams,
        level=RATIO,
        stochastic=True,
        loss=_LOSS,
    )
    for name, attribute, summary in (
        ("patchdrop_center", "CentrePatchDrop", "black out the cells nearest to the centre first"),
        ("patchdrop_border", "BorderPatchDrop", "black out the cells farthest from the centre first"),
    ):
        yield PerturbationEntry(
            name=name,
            target=f"harness_patchdrop.position_drop:{attribute}",
            summary=summary,
            params=CellParams,
            level=RATIO,
            loss=_LOSS,
        )
    for name, attribute, summary in (
        ("scandrop_linear", "LinearScanDrop", "black out pixels of every cell, more of them as a scan goes on"),
        ("scandrop_center_max", "CentreMaxScanDrop", "black out pixels of every cell, most in the middle of a scan"),
        ("scandrop_center_min", "CentreMinScanDrop", "black out pixels of every cell, fewest in the middle of a scan"),
    ):
        yield PerturbationEntry(
            name=name,
            target=f"harness_patchdrop.scan_drop:{attribute}",
            summary=summary,
            params=ScanDropParams,
            level=SCAN_RATIO,
            stochastic=True,
            loss=_LOSS,
        )
    yield PerturbationEntry(
        name="scandrop_sequential",
        target="harness_patchdrop.scan_drop:SequentialScanDrop",
        summary="black out whole cells one after the other, as a scan meets them",
        params=SequentialDropParams,
        level=RATIO,
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="tokendrop",
        target="harness_patchdrop.token_drop:TokenDrop",
        summary="take a random fraction of the patch tokens out of a transformer's sequence",
        params=TokenDropParams,
        stage="model",
        level=TOKEN_RATIO,
        stochastic=True,
        needs=frozenset({Capability.INTERVENTION}),
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="lesion",
        target="harness_patchdrop.lesion:Lesion",
        summary="set a random fraction of the patch tokens to zero in front of one block, stage or pool",
        params=LesionParams,
        stage="feature",
        level=LESION_RATE,
        stochastic=True,
        needs=frozenset({Capability.INTERVENTION}),
        loss=_LOSS,
    )
    yield PerturbationEntry(
        name="patch_shuffle",
        target="harness_patchdrop.shuffle:PatchShuffle",
        summary="cut the image into blocks and put them back in a random order",
        params=ShuffleParams,
        level=BLOCKS,
        stochastic=True,
    )
    yield PerturbationEntry(
        name="image_in_corner",
        target="harness_patchdrop.corner:ImageInCorner",
        summary="paste the whole image, made smaller, in a corner of a black canvas",
        params=CornerParams,
    )
    for name, attribute, summary, params, level in (
        (
            "patchdrop_salient",
            "SalientPatchDrop",
            "black out the most salient cells, by the attention of another model unless told otherwise",
            SalientDropParams,
            MASS,
        ),
        (
            "patchdrop_nonsalient",
            "NonsalientPatchDrop",
            "black out all but the most salient cells",
            NonsalientDropParams,
            BACKGROUND_MASS,
        ),
        (
            "patchdrop_matched",
            "MatchedPatchDrop",
            "black out as many cells as patchdrop_salient does, but random ones: the control for area",
            MatchedDropParams,
            MASS,
        ),
    ):
        yield PerturbationEntry(
            name=name,
            target=f"harness_patchdrop.salient_drop:{attribute}",
            summary=summary,
            params=params,
            level=level,
            stochastic=name == "patchdrop_matched",
            model_params=("saliency", "gradient_of"),
            model_words=SALIENCY_WORDS,
            loss=_LOSS,
        )
