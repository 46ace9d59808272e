"""Weights under other names: what only moves is taken, what timm's functions make, change or leave out is not."""

import pytest
import timm
import torch

from harness.errors import WeightsError
from harness.weights import parse_weights
from harness_timm import builders
from harness_timm.renaming import under_own_names

SMALL = "test_vit.r160_in1k"
SWIN = "swin_tiny_patch4_window7_224.ms_in1k"


@pytest.fixture
def saved(tmp_path):
    def save(state):
        torch.save(state, tmp_path / "given.pth")
        return parse_weights(str(tmp_path / "given.pth"))

    return save


def state_of(arch, **options):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return timm.create_model(arch, **options).state_dict()


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


# --- what timm's functions would pass silently -----------------------------------------------------------------


def test_a_layer_that_the_network_lacks_is_not_left_out(saved):
    state = state_of(SMALL) | {"pre_logits.fc.weight": torch.rand(64, 64), "pre_logits.fc.bias": torch.rand(64)}
    with pytest.raises(WeightsError, match=r"2 unexpected: pre_logits\.fc\.weight"):
        builders.build_vit(arch=SMALL, weights=saved(state))


def test_a_text_tower_is_not_left_out_and_no_bias_is_made_up(saved):
    state = {f"visual.trunk.{name}": value for name, value in state_of(SMALL).items() if not name.startswith("head")}
    state |= {"visual.head.proj.weight": torch.rand(1000, 64), "text.weight": torch.rand(3, 3)}
    with pytest.raises(WeightsError) as caught:
        builders.build_vit(arch=SMALL, weights=saved(state))
    assert "1 missing: head.bias" in caught.value.message
    assert "text.weight" in caught.value.message


def test_position_embeddings_of_another_size_are_not_resampled_on_the_way(saved):
    state = {f"visual.trunk.{name}": value for name, value in state_of(SMALL, img_size=192).items()}
    with pytest.raises(WeightsError, match=r"missing: pos_embed.*unexpected: visual\.trunk\.pos_embed"):
        builders.build_vit(arch=SMALL, weights=saved(state))


def test_a_tnt_of_another_size_is_not_resampled_on_the_way(saved):
    state = state_of("tnt_s_patch16_224.in1k", img_size=384)
    state["outer_pos"] = state.pop("patch_pos")
    with pytest.raises(WeightsError, match="missing: patch_pos"):
        builders.build_tnt(arch="tnt_s_patch16_224.in1k", weights=saved(state))


def test_swin_with_other_windows_is_refused(saved):
    state = state_of("swin_base_patch4_window12_384.ms_in1k")
    with pytest.raises(WeightsError, match=r"relative_position_bias_table \(529, 4\) instead of \(169, 4\)"):
        builders.build_swin(arch="swin_base_patch4_window7_224.ms_in1k", weights=saved(state))


@pytest.mark.parametrize("build", [builders.build_tnt, builders.build_convnext, builders.build_xcit])
def test_a_checkpoint_of_another_kind_of_network_is_refused_by_name(saved, build):
    arch = {
        builders.build_tnt: "tnt_s_patch16_224.in1k",
        builders.build_convnext: "convnext_tiny.fb_in1k",
        builders.build_xcit: "xcit_nano_12_p16_224.fb_in1k",
    }[build]
    with pytest.raises(WeightsError, match="missing"):
        build(arch=arch, weights=saved(state_of("test_resnet.r160_in1k")))


# --- what only moves -------------------------------------------------------------------------------------------


def test_names_of_torchvision_are_understood(saved):
    import torchvision

    with torch.random.fork_rng(devices=[]):
        state = torchvision.models.densenet121(weights=None).state_dict()
    # As torchvision's published files have them, which are older than the counters of batch norms.
    learned = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    old = {name.replace("norm1.", "norm.1.").replace("conv1.", "conv.1."): value for name, value in learned.items()}
    model = builders.build_densenet(arch="densenet121.tv_in1k", weights=saved(old))
    assert same(model.net.state_dict(), state)


def test_layers_that_became_convolutions_are_understood(saved):
    import torchvision

    with torch.random.fork_rng(devices=[]):
        state = torchvision.models.vgg11(weights=None).state_dict()
    model = builders.build_vgg(arch="vgg11.tv_in1k", weights=saved(state))
    assert torch.equal(model.net.pre_logits.fc1.weight.flatten(1), state["classifier.0.weight"])
    assert torch.equal(model.net.head.fc.bias, state["classifier.6.bias"])


def test_a_projection_that_is_cut_into_three_is_understood(saved):
    arch = "xcit_nano_12_p16_224.fb_in1k"
    state = state_of(arch)
    given = dict(state)
    for block in (0, 1):
        for kind in ("weight", "bias"):
            parts = [given.pop(f"cls_attn_blocks.{block}.attn.{part}.{kind}") for part in "qkv"]
            given[f"cls_attn_blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    model = builders.build_xcit(arch=arch, weights=saved(given))
    assert same(model.net.state_dict(), state)


def test_the_names_of_tnts_authors_are_understood(saved):
    arch = "tnt_s_patch16_224.in1k"
    state = state_of(arch)
    given = {
        name.replace("patch_pos", "outer_pos")
        .replace("pixel_pos", "inner_pos")
        .replace("norm_mlp_in", "inner_norm2"): v
        for name, v in state.items()
    }
    moved = {name for name in given if name not in state}
    assert {"outer_pos", "inner_pos", "blocks.0.inner_norm2.weight"} <= moved
    given["inner_pos"] = given["inner_pos"].flatten(2).transpose(1, 2)
    model = builders.build_tnt(arch=arch, weights=saved(given))
    assert same(model.net.state_dict(), state)


def test_what_only_training_reads_may_be_there(saved):
    state = state_of(SWIN)
    extra = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49),
        "layers.0.blocks.1.attn_mask": torch.ones(2),
    }
    assert same(builders.build_swin(arch=SWIN, weights=saved(state | extra)).net.state_dict(), state)
    small = state_of(SMALL)
    masked = small | {"mask_token": torch.rand(1, 64)}
    assert same(builders.build_dino(arch=SMALL, weights=saved(masked)).net.state_dict(), small)
    with pytest.raises(WeightsError, match="1 unexpected: mask_token"):
        builders.build_vit(arch=SMALL, weights=saved(masked))


def test_nothing_is_renamed_where_the_names_are_right():
    net = timm.create_model(SMALL)
    state = dict(net.state_dict())
    found = under_own_names(state, net, lambda *_: pytest.fail("renamed"))
    assert found.keys() == state.keys()
