"""Rollout against the whole product of matrices by loops, closed forms, and every kind of block it cannot pass."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.backbones.cait import CaiTModel
from harness.backbones.convit import ConViTModel
from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
from harness.backbones.pit import PiTModel
from harness.backbones.swin import SwinModel
from harness.backbones.xcit import XCiTModel
from harness.errors import CapabilityError, DataError, ParameterError
from harness.protocols import ProbeContext
from harness.testing import Subject, run_checks
from harness.testing.sample import sample_batch, tiny_model
from harness.types import BlockAttention, Capability, ModelInfo, ModelOutputs, View, WeightsInfo
from harness_inspect.attention_rollout import harness_register_probes
from harness_inspect.attention_rollout_exhibit import exhibit
from harness_inspect.attention_rollout_probe import AttentionRolloutProbe, rollout_row, without_lowest
from harness_inspect.inspection import MEAN, SHOWN

SIDE, GRID = 32, 4


def card(*, prefix=("cls",), blocks=3, side=SIDE) -> ModelInfo:
    return ModelInfo(
        name="imagined",
        family="test",
        weights=WeightsInfo(origin="random", identity="random:imagined:0"),
        view=View(crop=side),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=blocks,
        embed_dim=8,
        prefix=prefix,
        capabilities=frozenset({Capability.ATTENTION}),
    )


def fitted(probe, weights, *, prefix=("cls",)):
    """The probe fitted to a model whose blocks attend with ``weights``, and that model's outputs."""
    info = card(prefix=prefix, blocks=len(weights))
    outputs = ModelOutputs(attention={b: BlockAttention(weights=w, kind="global") for b, w in enumerate(weights)})
    network = SimpleNamespace(info=info, outputs=lambda images, want: outputs)
    return probe.fit(None, ProbeContext(model=info, classes=("a",), label_space=None, seed=0, network=network)), outputs


def asked(probe, weights, *, prefix=("cls",)):
    found, outputs = fitted(probe, weights, prefix=prefix)
    run = found.start()
    run.update(sample_batch([0] * len(weights[0]), side_px=SIDE), outputs, None)
    return run


def softmaxed(*shape: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def product_by_hand(weights, image, discard=0.0):
    """The whole rollout matrix of one image, from the first block to the last, with every sum written out."""
    tokens = weights[0].shape[-1]
    rollout = np.eye(tokens)
    for of_block in weights:
        averaged = sum(of_block[image, head].double().numpy() for head in range(of_block.shape[1])) / of_block.shape[1]
        for place in sorted(range(tokens * tokens), key=lambda p: averaged.flat[p])[: int(discard * tokens * tokens)]:
            averaged = averaged.copy()
            averaged.flat[place] = 0
        step = averaged + np.eye(tokens)
        for row in range(tokens):
            step[row] /= sum(step[row])
        rollout = step @ rollout
    return rollout


@pytest.mark.parametrize("discard", [0.0, 0.4])
@pytest.mark.parametrize(("prefix", "token", "row"), [(("cls",), "cls", 0), (("cls", "dist"), "dist", 1)])
def test_the_map_is_the_tokens_row_of_the_whole_product(prefix, token, row, discard):
    tokens = GRID * GRID + len(prefix)
    weights = [softmaxed(2, 3, tokens, tokens, seed=b) for b in range(3)]
    run = asked(AttentionRolloutProbe(token=token, discard=discard), weights, prefix=prefix)
    arrays = run.arrays()
    for image in range(2):
        of_token = product_by_hand(weights, image, discard)[row]
        expected = of_token[len(prefix) :] / of_token[len(prefix) :].sum()
        np.testing.assert_allclose(arrays[f"{SHOWN}rollout"][image].ravel(), expected, rtol=1e-5)
        share = run.outcomes().columns["special_token_mass"][0, image]
        assert share == pytest.approx(of_token[: len(prefix)].sum(), rel=1e-5)
    np.testing.assert_allclose(arrays[f"{MEAN}rollout"], arrays[f"{SHOWN}rollout"].mean(axis=0), rtol=1e-5)
    assert arrays[f"{SHOWN}rollout"].sum(axis=(1, 2)) == pytest.approx([1, 1])


@pytest.mark.parametrize("prefix", [(), ("cls",)])
def test_the_mean_is_over_the_rows_of_the_patches(prefix):
    tokens = GRID * GRID + len(prefix)
    weights = [softmaxed(1, 2, tokens, tokens, seed=b) for b in range(2)]
    run = asked(AttentionRolloutProbe(token="mean"), weights, prefix=prefix)
    of_patches = product_by_hand(weights, 0)[len(prefix) :].mean(axis=0)[len(prefix) :]
    np.testing.assert_allclose(run.arrays()[f"{SHOWN}rollout"][0].ravel(), of_patches / of_patches.sum(), rtol=1e-5)
    auto = asked(AttentionRolloutProbe(), weights, prefix=prefix)
    assert auto.result()[0].dims == {"token": "cls" if prefix else "mean"}


@settings(deadline=None, max_examples=20)
@given(tokens=st.integers(2, 9), blocks=st.integers(1, 5), seed=st.integers(0, 50), discard=st.sampled_from([0.0, 0.5]))
def test_every_row_of_the_product_sums_to_one(tokens, blocks, seed, discard):
    averaged = [softmaxed(tokens, tokens, seed=seed + b).expand(tokens, -1, -1) for b in range(blocks)]
    rows = rollout_row(iter(averaged), torch.eye(tokens), discard=discard)
    np.testing.assert_allclose(rows.sum(dim=1), 1)
    assert (rows >= 0).all()


@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_uniform_attention_halves_the_identity_with_every_block(blocks):
    """(U + I) / 2 to the power of L is U + (I - U) / 2^L."""
    tokens = GRID * GRID + 1
    run = asked(AttentionRolloutProbe(), [torch.full((1, 2, tokens, tokens), 1 / tokens)] * blocks)
    rows = {row.metric: row for row in run.result()}
    stays = 0.5**blocks
    assert rows["special_token_mass"].value == pytest.approx(stays + (1 - stays) / tokens, rel=1e-5)
    assert rows["rollout_entropy"].value == pytest.approx(math.log2(GRID * GRID), rel=1e-5)
    assert rows["effective_patches"].value == pytest.approx(GRID * GRID, rel=1e-5)
    assert rows["rollout_on_object"].value == pytest.approx(0.5, rel=1e-5)  # the sample's masks are the left half
    assert rows["rollout_object_lift"].value == pytest.approx(1, rel=1e-5)


def test_what_only_looks_at_the_object_reaches_it_alone():
    tokens = GRID * GRID + 1
    weights = torch.zeros(2, 1, tokens, tokens)
    weights[..., 1 + GRID] = 1  # the first place of the second row, which lies in the left half
    rows = {row.metric: row for row in asked(AttentionRolloutProbe(), [weights]).result()}
    assert rows["rollout_on_object"].value == pytest.approx(1)
    assert rows["object_area"].value == pytest.approx(0.5)
    assert rows["rollout_object_lift"].value == pytest.approx(2)
    assert rows["rollout_entropy"].value == 0


def test_the_lowest_weights_of_each_image_go_first_and_the_first_of_equal_ones():
    weights = torch.tensor([[[0.1, 0.9], [0.4, 0.6]], [[0.5, 0.5], [0.5, 0.5]]])
    found = without_lowest(weights, 0.5)
    assert found[0].tolist() == [[0, pytest.approx(0.9)], [0, pytest.approx(0.6)]]
    assert found[1].tolist() == [[0, 0], [0.5, 0.5]]
    assert without_lowest(weights, 0.2).equal(weights)


def test_what_no_patch_reaches_has_no_map():
    tokens = GRID * GRID + 1
    with pytest.raises(DataError, match=r"sample/0000\.png"):
        asked(AttentionRolloutProbe(), [torch.eye(tokens).expand(1, 1, -1, -1)])


class TestRefusals:
    def model(self, wrapper, arch, side, **sizes):
        net = timm.create_model(arch, pretrained=False, img_size=side, num_classes=5, **sizes).eval()
        return wrapper(net, card(side=side))

    @pytest.mark.parametrize(
        ("wrapper", "arch", "side", "sizes", "words"),
        [
            (CaiTModel, "cait_xxs24_224", 48, {"embed_dim": 16, "depth": 2, "num_heads": 2}, "mixes its heads"),
            (
                ConViTModel, "convit_tiny", 48,
                {"embed_dim": 4, "num_heads": 2, "depth": 3, "local_up_to_layer": 2}, "10 tokens, others over 9",
            ),
            (
                PiTModel, "pit_ti_224", 64,
                {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 4)}, "17 tokens, others over 50",
            ),
            (
                SwinModel, "swin_tiny_patch4_window7_224", 32,
                {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}, "windows",
            ),
        ],
    )  # fmt: skip
    def test_blocks_that_cannot_be_passed(self, wrapper, arch, side, sizes, words):
        model = self.model(wrapper, arch, side, **sizes)
        context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
        probe = AttentionRolloutProbe(token="mean")
        probe.wants(model.info)
        with pytest.raises(CapabilityError, match=words):
            probe.fit(None, context)

    def test_blocks_without_attention_are_known_from_the_card(self):
        xcit = self.model(XCiTModel, "xcit_nano_12_p16_224", 48, embed_dim=16, depth=1, num_heads=2)
        net = PatchConvNet(width=16, depth=2, num_classes=4, layer_scale=1e-4)
        for model in (xcit, PatchConvNetModel(net.eval(), card(side=32))):
            with pytest.raises(CapabilityError, match="gives no attention of") as error:
                AttentionRolloutProbe().wants(model.info)
            assert "attention_pool_maps" in error.value.hint

    def test_a_token_that_is_not_there(self):
        with pytest.raises(CapabilityError, match="no token named 'dist'"):
            AttentionRolloutProbe(token="dist").wants(tiny_model().info)

    def test_patches_dropped_inside_the_model(self):
        model = tiny_model()
        context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
        run = AttentionRolloutProbe().fit(None, context).start()
        fewer = {b: BlockAttention(weights=softmaxed(1, 2, 10, 10), kind="global") for b in range(2)}
        with pytest.raises(CapabilityError, match="dropped"):
            run.update(sample_batch([0], side_px=32), ModelOutputs(attention=fewer), None)

    @pytest.mark.parametrize("given", [{"token": ""}, {"discard": 1.0}, {"discard": -0.1}, {"examples": -1}])
    def test_impossible_parameters(self, given):
        with pytest.raises(ParameterError):
            AttentionRolloutProbe(**given)


class TestExhibit:
    def test_models_that_were_asked_once_share_the_row_of_images(self, finding_of):
        findings = [finding_of(AttentionRolloutProbe(examples=3), model=f"tiny{i}") for i in range(2)]
        made = exhibit(findings)
        assert list(made.pictures) == ["", "numbers"]
        drawn = [axes for axes in made.pictures[""].axes if axes.images]
        assert len(drawn) == 3 + 2 * (3 + 1)  # images once; of each model three maps and the mean
        assert {row[0] for row in made.tables[""].rows} == {"tiny0", "tiny1"}
        assert {row[2] for row in made.tables[""].rows} >= {"rollout_entropy", "rollout_on_object", "object_area"}

    def test_conditions_of_a_model_have_pages_of_their_own(self, finding_of):
        conditions = ("none", *(f"darken@0.{i}" for i in range(1, 9)))
        found = finding_of(AttentionRolloutProbe(examples=2))
        findings = [replace(found, model=model, condition=c) for model in ("tiny0", "tiny1") for c in conditions]
        made = exhibit(findings)
        assert list(made.pictures) == ["", "tiny0 page2", "tiny1", "tiny1 page2", "numbers"]
        labels = [axes.get_ylabel() for name in ("", "tiny0 page2") for axes in made.pictures[name].axes]
        assert [label for label in labels if label not in ("", "image")] == list(conditions)
        assert len(made.pictures["numbers"].axes[0].get_yticks()) == 18

    def test_without_examples_there_are_the_numbers(self, finding_of):
        made = exhibit([finding_of(AttentionRolloutProbe(examples=0))])
        assert list(made.pictures) == [""]
        assert len(made.pictures[""].axes) == 3


@pytest.mark.slow
def test_the_contract_is_kept():
    (entry,) = harness_register_probes()
    subject = Subject(entry=entry, make=AttentionRolloutProbe, plugin="harness_inspect.attention_rollout")
    assert [outcome for outcome in run_checks(subject) if outcome.status == "failed"] == []
