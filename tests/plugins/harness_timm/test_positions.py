"""Position embeddings of every family that has some: another input size, ablations, and where they are refused."""

import pytest
import timm
import torch

from harness.backbones.positions import ablate_positions, resample_map, resample_positions
from harness.errors import CapabilityError
from harness.types import OutputSpec
from harness.weights import parse_weights
from harness_timm import any_model, builders, deit

FAMILIES = {
    "vit": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "pos_embed", 1),
    "deit": ("deit_tiny_distilled_patch16_224.fb_in1k", "pos_embed", 2),
    "dino": ("vit_small_patch16_224.dino", "pos_embed", 1),
    "tnt": ("tnt_s_patch16_224.in1k", "patch_pos", 1),
    "cait": ("cait_xxs24_224.fb_dist_in1k", "pos_embed", 0),
    "pit": ("pit_ti_224.in1k", "pos_embed", None),
    "convit": ("convit_tiny.fb_in1k", "pos_embed", 0),
    "any_model": ("deit3_small_patch16_224.fb_in1k", "pos_embed", 0),
}
"""Architecture, parameter, and prefix tokens that have a position embedding; None for a map of embeddings."""

LARGER = 288


def build(family, weights, **params):
    own = {"deit": deit.build, "any_model": any_model.build}
    build = own[family] if family in own else getattr(builders, f"build_{family}")
    return build(arch=FAMILIES[family][0], weights=weights, **params)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {}

    def get(family):
        if family not in made:
            state = timm.create_model(FAMILIES[family][0]).state_dict()
            state[FAMILIES[family][1]].normal_(generator=torch.Generator().manual_seed(1))
            torch.save(state, folder / f"{family}.pth")
            made[family] = parse_weights(str(folder / f"{family}.pth")), state[FAMILIES[family][1]]
        return made[family]

    return get


@pytest.mark.parametrize("how", ["bicubic", "bilinear_corner"])
@pytest.mark.parametrize("family", FAMILIES)
def test_another_input_size_resamples_them(checkpoints, family, how):
    weights, own = checkpoints(family)
    _, name, prefix = FAMILIES[family]
    model = build(family, weights, input=LARGER, posemb_interp=how)
    found = getattr(model.net, name)
    if prefix is None:
        expected = resample_map(own, tuple(found.shape[2:]), how)
    else:
        expected = resample_positions(own, prefix, (LARGER // 16, LARGER // 16), how)
    assert torch.equal(found, expected)
    assert found.shape != own.shape
    assert model.info.input_size == LARGER
    with torch.no_grad():
        last = model.outputs(torch.rand(1, 3, LARGER, LARGER), OutputSpec(tokens=frozenset({0}))).tokens[0]
    assert last.patches.isfinite().all()


@pytest.mark.parametrize("how", ["zero", "shuffle", "mean"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "convit"])
def test_ablations_change_patches_alone(checkpoints, family, how):
    weights, own = checkpoints(family)
    _, name, prefix = FAMILIES[family]
    found = getattr(build(family, weights, positions=how, positions_seed=3 if how == "shuffle" else 0).net, name)
    if prefix is None:
        found, own, prefix = found.flatten(2).transpose(1, 2), own.flatten(2).transpose(1, 2), 0
    assert torch.equal(found, ablate_positions(own, prefix, how, seed=3 if how == "shuffle" else 0))
    assert not torch.equal(found, own)


def test_where_places_are_known_in_other_ways_they_cannot_be_taken_away(checkpoints):
    with pytest.raises(CapabilityError, match="other ways to tell where"):
        build("convit", checkpoints("convit")[0], positions="zero")


@pytest.mark.parametrize("arch", ["volo_d1_224.sail_in1k", "swin_tiny_patch4_window7_224.ms_in1k", "resnet18.a1_in1k"])
def test_networks_of_other_kinds_have_none_that_are_known_of(arch):
    with torch.device("meta"), pytest.raises(CapabilityError, match="no position embedding of its patches"):
        any_model.build(arch=arch, weights=parse_weights("random"), positions="shuffle")
