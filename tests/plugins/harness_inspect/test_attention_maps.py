"""Maps of a token by slow loops, and the share on visible pixels where it is known by construction."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from harness.backbones.cait import CaiTModel
from harness.backbones.convit import ConViTModel
from harness.backbones.pit import PiTModel
from harness.backbones.swin import SwinModel
from harness.errors import CapabilityError, DataError, ParameterError
from harness.params import coerce
from harness.protocols import PerturbationContext, ProbeContext
from harness.testing import Subject, run_checks
from harness.testing.sample import sample_batch, tiny_model, without
from harness.types import BlockAttention, Capability, Measurement, ModelInfo, ModelOutputs, View, WeightsInfo
from harness_inspect.attention_maps import AttentionMapsParams, harness_register_probes
from harness_inspect.attention_maps_exhibit import exhibit
from harness_inspect.attention_maps_probe import AttentionMapsProbe
from harness_inspect.inspection import MEAN, SHOWN
from harness_patchdrop.random_drop import RandomPatchDrop

SIDE, GRID = 32, 4


def card(*, prefix=("cls",), blocks=2, side=SIDE) -> ModelInfo:
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


def asked(probe, weights, *, prefix=("cls",), taken=None, side_px=SIDE):
    """The run of a probe over a batch of a model whose blocks attend with ``weights``, all tokens among each other."""
    info = card(prefix=prefix, blocks=len(weights))
    outputs = ModelOutputs(attention={b: BlockAttention(weights=w, kind="global") for b, w in enumerate(weights)})
    network = SimpleNamespace(info=info, outputs=lambda images, want: outputs)
    context = ProbeContext(model=info, classes=("a",), label_space=None, seed=0, network=network)
    run = probe.fit(None, context).start()
    run.update(replace(sample_batch([0] * len(weights[0]), side_px=side_px), taken=taken), outputs, None)
    return run


def real(wrapper, arch, side, **sizes):
    net = timm.create_model(arch, pretrained=False, img_size=side, num_classes=5, **sizes).eval()
    return wrapper(net, card(side=side))


def run_of(model, probe, labels=(0, 1)):
    context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
    run = probe.fit(None, context).start()
    batch = sample_batch(list(labels), side_px=model.info.input_size)
    run.update(batch, model.outputs(batch.images, probe.wants(model.info)), None)
    return run


def softmaxed(*shape: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def rows(run, metric, **dims):
    return [row for row in run.result() if row.metric == metric and dims.items() <= row.dims.items()]


def map_by_hand(weights, image, query, prefix):
    """Mean over the heads of one row, over the patches alone, divided by its sum; and what the others get."""
    heads = weights.shape[1]
    mean = [
        sum(float(weights[image, head, query, key]) for head in range(heads)) / heads for key in range(GRID**2 + prefix)
    ]
    patches = np.array(mean[prefix:])
    return patches / patches.sum(), sum(mean[:prefix])


@pytest.mark.parametrize(("token", "query"), [("cls", 0), ("dist", 1)])
def test_maps_are_means_over_heads_and_images_of_the_tokens_row(token, query):
    weights = [softmaxed(3, 2, 18, 18, seed=b) for b in range(2)]
    run = asked(AttentionMapsProbe(token=token), weights, prefix=("cls", "dist"))
    arrays = run.arrays()
    for block, of_block in enumerate(weights):
        by_hand = [map_by_hand(of_block, image, query, 2) for image in range(3)]
        mean = np.mean([of_patches for of_patches, _ in by_hand], axis=0)
        np.testing.assert_allclose(arrays[f"{MEAN}block{block}"].ravel(), mean, rtol=1e-6)
        (mass,) = rows(run, "special_token_mass", block=block, token=token)
        assert mass.value == pytest.approx(np.mean([special for _, special in by_hand]), rel=1e-5)
        (entropy,) = rows(run, "attention_entropy", block=block)
        expected = np.mean([-(of_patches * np.log2(of_patches)).sum() for of_patches, _ in by_hand])
        assert entropy.value == pytest.approx(expected, rel=1e-5)
        assert entropy.unit == "bits"
    np.testing.assert_allclose(
        arrays[f"{SHOWN}last"],
        np.stack([map_by_hand(weights[1], i, query, 2)[0].reshape(4, 4) for i in range(3)]),
        rtol=1e-5,
    )


@pytest.mark.parametrize("prefix", [(), ("cls",)])
def test_the_mean_is_over_all_patches_that_ask(prefix):
    weights = softmaxed(1, 2, 16 + len(prefix), 16 + len(prefix))
    run = asked(AttentionMapsProbe(token="mean"), [weights], prefix=prefix)
    mean = weights[0].double().mean(dim=0)[len(prefix) :].mean(dim=0)[len(prefix) :].numpy()
    np.testing.assert_allclose(run.arrays()[f"{MEAN}block0"].ravel(), mean / mean.sum(), rtol=1e-6)


class TestVisible:
    def test_of_images_that_lost_nothing_everything_is_visible(self):
        for taken in (None, torch.zeros(2, SIDE, SIDE, dtype=torch.bool)):
            run = asked(AttentionMapsProbe(), [softmaxed(2, 2, 17, 17, seed=b) for b in range(2)], taken=taken)
            for metric in ("attention_on_visible", "attention_on_visible_of_block", "visible_share", "visible_lift"):
                assert {(row.value, row.low, row.high) for row in rows(run, metric)} == {(1.0, 1.0, 1.0)}
            assert (run.arrays()[f"{MEAN}visible"] == 1).all()

    def test_a_patch_counts_with_the_share_of_its_pixels_that_is_left(self):
        weights = torch.zeros(1, 1, 17, 17)
        weights[0, 0, 0, [0, 1, 2, 5]] = torch.tensor([0.2, 0.4, 0.3, 0.1])
        taken = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        taken[0, :8, :4] = True  # half of the first patch
        taken[0, 8:16, :8] = True  # the first of the second row
        run = asked(AttentionMapsProbe(), [weights], taken=taken)
        # 0.4 of 0.8 on the first, of which half is visible; 0.3 on the second; 0.1 on the one that is gone.
        assert rows(run, "attention_on_visible")[0].value == pytest.approx((0.2 + 0.3) / 0.8)
        assert rows(run, "visible_share")[0].value == pytest.approx(1 - 96 / SIDE**2)
        assert rows(run, "visible_lift")[0].value == pytest.approx(0.5 / 0.8 / (1 - 96 / SIDE**2))
        expected = np.ones((4, 4))
        expected[0, 0], expected[1, 0] = 0.5, 0
        np.testing.assert_allclose(run.arrays()[f"{MEAN}visible"], expected)

    def test_the_headline_is_the_mean_over_the_blocks(self):
        taken = torch.from_numpy(np.random.default_rng(0).random((4, SIDE, SIDE)) < 0.4)
        run = asked(AttentionMapsProbe(), [softmaxed(4, 2, 17, 17, seed=b) for b in range(3)], taken=taken)
        blocks = [row.value for row in rows(run, "attention_on_visible_of_block")]
        assert len(set(blocks)) == 3
        assert rows(run, "attention_on_visible")[0].value == pytest.approx(np.mean(blocks))
        assert rows(run, "attention_on_visible")[0].interval == "bootstrap95"

    def test_uniform_attention_lies_on_visible_patches_as_chance_has_it(self):
        drop = RandomPatchDrop()
        drop.prepare(
            PerturbationContext(
                seed=0, view=View(crop=SIDE), device=torch.device("cpu"), dataset_fingerprint="", num_classes=1,
                evaluated=tiny_model(), num_images=5,
            )
        )  # fmt: skip
        batch = sample_batch([0] * 5, side_px=SIDE)
        dropped = drop.apply(batch, drop.begin(batch), 0.75)
        run = asked(AttentionMapsProbe(), [torch.full((5, 2, 17, 17), 1 / 17)], taken=dropped.taken)
        (on_visible,) = rows(run, "attention_on_visible")
        share = 1 - dropped.realised["information_loss"].mean().item()
        assert 0 < share < 1
        assert on_visible.value == pytest.approx(share)
        assert rows(run, "visible_lift")[0].value == pytest.approx(1)

    def test_where_nothing_is_left_there_is_no_lift(self):
        run = asked(AttentionMapsProbe(), [softmaxed(2, 1, 17, 17)], taken=torch.ones(2, SIDE, SIDE, dtype=torch.bool))
        assert rows(run, "attention_on_visible")[0].value == pytest.approx(0, abs=1e-6)
        assert rows(run, "visible_lift") == rows(run, "visible_lift_of_block") == []

    def test_images_of_another_size_than_the_models(self):
        weights = torch.zeros(1, 1, 17, 17)
        weights[0, 0, 0, 1] = 1  # the first patch alone: 7.5 of 30 pixels a side
        taken = torch.zeros(1, 30, 30, dtype=torch.bool)
        taken[0, :7, :] = True
        run = asked(AttentionMapsProbe(), [weights], taken=taken, side_px=30)
        assert rows(run, "attention_on_visible")[0].value == pytest.approx(0.5 / 7.5)


class TestBlocks:
    def test_those_in_which_the_class_token_is_there(self):
        model = real(ConViTModel, "convit_tiny", 48, embed_dim=4, num_heads=2, depth=3, local_up_to_layer=2)
        assert [row.dims["block"] for row in rows(run_of(model, AttentionMapsProbe()), "attention_entropy")] == [2]
        run = run_of(model, AttentionMapsProbe(token="mean", blocks=(0, -1)))
        assert [row.dims["block"] for row in rows(run, "attention_entropy")] == [0, 2]
        with pytest.raises(CapabilityError, match="in block 0 'cls' does not attend"):
            run_of(model, AttentionMapsProbe(blocks=(0, 2)))

    def test_those_of_classes(self):
        model = real(CaiTModel, "cait_xxs24_224", 48, embed_dim=16, depth=2, num_heads=2, depth_token_only=2)
        run = run_of(model, AttentionMapsProbe())
        assert [row.dims["block"] for row in rows(run, "attention_entropy")] == [2, 3]
        assert run.arrays()[f"{MEAN}last"].shape == (3, 3)
        with pytest.raises(CapabilityError, match="no distributions"):
            run_of(model, AttentionMapsProbe(token="mean"))

    def test_those_of_every_stage(self):
        model = real(PiTModel, "pit_ti_224", 64, base_dims=(8, 8, 8), depth=(1, 1, 1), heads=(1, 2, 4))
        arrays = run_of(model, AttentionMapsProbe()).arrays()
        assert [arrays[f"{MEAN}block{block}"].shape for block in range(3)] == [(7, 7), (4, 4), (2, 2)]

    def test_windows_are_refused(self):
        sizes = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
        with pytest.raises(CapabilityError, match="windows"):
            run_of(real(SwinModel, "swin_tiny_patch4_window7_224", 32, **sizes), AttentionMapsProbe())

    def test_a_token_that_nobody_has(self):
        info = tiny_model().info
        with pytest.raises(CapabilityError, match="no token named 'dist'"):
            AttentionMapsProbe(token="dist").wants(info)
        with pytest.raises(CapabilityError, match="no token named 'cls'"):
            AttentionMapsProbe(token="cls").wants(without(info, frozenset({Capability.CLASS_TOKEN})))
        assert AttentionMapsProbe().wants(without(info, frozenset({Capability.CLASS_TOKEN}))).attention == {0, 1}

    def test_what_gives_no_patch_anything_has_no_map(self):
        with pytest.raises(DataError, match=r"sample/0000\.png"):
            asked(AttentionMapsProbe(), [torch.eye(17).expand(1, 1, -1, -1)])

    def test_patches_dropped_inside_the_model(self):
        model = tiny_model()
        context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
        run = AttentionMapsProbe().fit(None, context).start()
        fewer = {b: BlockAttention(weights=softmaxed(1, 2, 10, 10), kind="global") for b in range(2)}
        with pytest.raises(CapabilityError, match="dropped"):
            run.update(sample_batch([0], side_px=32), ModelOutputs(attention=fewer), None)

    @pytest.mark.parametrize("given", [{"token": ""}, {"blocks": ()}, {"blocks": "some"}, {"examples": -1}])
    def test_impossible_parameters(self, given):
        with pytest.raises(ParameterError):
            AttentionMapsProbe(**given)

    def test_blocks_are_read_from_text(self):
        assert coerce(AttentionMapsParams, {"blocks": "0+-1"}, "attention_maps").blocks == (0, -1)


def deeper(finding, blocks):
    """As if the model of a finding had more blocks, each like its first."""
    measured: list[Measurement] = []
    for row in finding.record.measurements:
        if row.dims.get("block", 0) == 0:
            numbers = range(blocks) if "block" in row.dims else ()
            measured += [replace(row, dims={**row.dims, "block": block}) for block in numbers] or [row]
    maps = {f"{MEAN}block{block}": finding.arrays[f"{MEAN}block0"] for block in range(blocks)}
    return replace(
        finding,
        record=replace(finding.record, measurements=tuple(measured)),
        arrays={**finding.arrays, **maps},
    )


class TestExhibit:
    def test_one_model_has_its_maps_first(self, finding_of):
        finding = finding_of(AttentionMapsProbe(examples=2))
        made = exhibit([finding])
        assert list(made.pictures) == ["", "visible", "entropy", "special", "examples"]
        titles = [axes.get_title() for axes in made.pictures[""].axes]
        assert [title for title in titles if title] == ["visible", "block 0", "block 1"]
        drawn = made.pictures[""].axes[1].images[0].get_array()
        np.testing.assert_allclose(
            drawn,
            np.clip(np.log2(16 * finding.arrays[f"{MEAN}block0"]), *made.pictures[""].axes[1].images[0].get_clim()),
        )

    def test_many_blocks_and_conditions_are_split_and_none_is_left_out(self, finding_of):
        deep = deeper(finding_of(AttentionMapsProbe(examples=1)), 14)
        conditions = ["none", *(f"patchdrop_random@0.{i}" for i in range(1, 9))]
        findings = [replace(deep, condition=condition) for condition in conditions]
        made = exhibit(findings)
        pages = [name for name in made.pictures if name == "" or name.startswith("tiny")]
        assert pages == ["", "tiny page2", "tiny page3", "tiny page4"]
        shown = set()
        for name in pages:
            axes = made.pictures[name].axes
            blocks = [a.get_title() for a in axes if a.get_title().startswith("block")]
            shown |= {(a.get_ylabel().replace("\n", ""), block) for a in axes if a.get_ylabel() for block in blocks}
        labels = {(condition, f"block {block}") for condition in conditions for block in range(14)}
        assert labels <= shown
        assert len(made.pictures["visible"].legends[0].get_texts()) == 9
        on_visible = [row for row in made.tables[""].rows if row[2] == "attention_on_visible_of_block"]
        assert len(on_visible) == 126

    def test_several_models_have_their_curves_first(self, finding_of):
        one = finding_of(AttentionMapsProbe(examples=1))
        findings = [replace(one, model=f"tiny{i}", condition=c) for i in range(2) for c in ("none", "darken@0.5")]
        made = exhibit(findings)
        names = ["", "entropy", "special", "tiny0", "tiny1", "examples tiny0", "examples tiny1"]
        assert list(made.pictures) == names
        panels = [axes.get_title(loc="left") for axes in made.pictures[""].axes if axes.get_visible()]
        assert panels == ["tiny0", "tiny1"]

    def test_without_occlusion_there_is_nothing_visible_to_show(self, finding_of):
        one = finding_of(AttentionMapsProbe(examples=0))
        clean = tuple(
            replace(row, value=1.0, low=1.0, high=1.0) if row.metric == "visible_share" else row
            for row in one.record.measurements
        )
        made = exhibit([replace(one, record=replace(one.record, measurements=clean))])
        assert list(made.pictures) == ["", "entropy", "special"]
        assert "visible" not in [axes.get_title() for axes in made.pictures[""].axes]

    def test_uniform_attention_is_the_middle_of_the_scale(self, finding_of):
        one = finding_of(AttentionMapsProbe(examples=0, blocks=(0,)))
        flat = {
            name: np.full_like(values, 1 / 16) if "block" in name else values for name, values in one.arrays.items()
        }
        image = exhibit([replace(one, arrays=flat)]).pictures[""].axes[1].images[0]
        np.testing.assert_allclose(image.get_array(), 0, atol=1e-12)
        assert image.get_clim() == (-1, 1)


@pytest.mark.slow
def test_the_contract_is_kept():
    (entry,) = harness_register_probes()
    subject = Subject(entry=entry, make=AttentionMapsProbe, plugin="harness_inspect.attention_maps")
    assert [outcome for outcome in run_checks(subject) if outcome.status == "failed"] == []
