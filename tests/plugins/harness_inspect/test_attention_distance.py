"""Attention distance against known constants and a slow loop, on attention of every kind that is or is not one."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch

from harness.backbones.cait import CaiTModel
from harness.backbones.pit import PiTModel
from harness.errors import CapabilityError, DataError, ParameterError
from harness.exhibits import Exhibit
from harness.params import canonical, coerce
from harness.protocols import FittedProbe, Probe, ProbeContext
from harness.testing import Subject, run_checks
from harness.testing.sample import sample_batch, tiny_model
from harness.types import BlockAttention, Capability, ModelInfo, ModelOutputs, View, WeightsInfo
from harness_inspect.attention_distance import AttentionDistanceParams, harness_register_probes
from harness_inspect.attention_distance_exhibit import exhibit
from harness_inspect.attention_distance_probe import AttentionDistanceProbe, head_distances, patch_distances_px
from harness_inspect.inspection import Inspection

CONSTANTS = [
    (14, 224, 116.492),
    (7, 224, 115.503),
    (16, 224, 116.565),
    (28, 224, 116.722),
    (24, 384, 200.048),
    (12, 384, 199.506),
]
"""Patches a side, input in pixels, mean distance under uniform attention."""


def card(*, side: int, prefix: tuple[str, ...], blocks: int = 1) -> ModelInfo:
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


def asked(probe, attention, *, side: int, prefix=("cls",), size: int = 2):
    """The run of a probe over a batch of a model whose blocks attend as ``attention`` says, by block."""
    info = card(side=side, prefix=prefix, blocks=len(attention))
    outputs = ModelOutputs(attention=attention)
    network = SimpleNamespace(info=info, outputs=lambda images, want: outputs)
    context = ProbeContext(model=info, classes=("a",), label_space=None, seed=0, network=network)
    run = probe.fit(None, context).start()
    run.update(sample_batch([0] * size, side_px=8), outputs, None)
    return run


def softmaxed(*shape: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return (spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)


def rows(run, metric):
    return [row for row in run.result() if row.metric == metric]


def by_hand(weights, grid, step, special):
    """Loops over everything, in the definition's own words."""
    n, heads, tokens, _ = weights.shape
    prefix = tokens - grid * grid
    found = np.zeros((n, heads))
    for image in range(n):
        for head in range(heads):
            of_queries = []
            for i in range(grid * grid):
                moment = mass = 0.0
                for j in range(grid * grid):
                    weight = float(weights[image, head, prefix + i, prefix + j])
                    between = math.dist(divmod(i, grid), divmod(j, grid))
                    moment, mass = moment + weight * between * step, mass + weight
                of_queries.append(moment / mass if special == "renormalise" else moment)
            found[image, head] = sum(of_queries) / len(of_queries)
    return found


@pytest.mark.parametrize(("grid", "side", "expected"), CONSTANTS)
def test_uniform_attention_has_the_known_distance(grid, side, expected):
    assert patch_distances_px((grid, grid), side).mean() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("grid", "side", "expected"), CONSTANTS[:2])
def test_uniform_attention_of_a_model_has_it_and_a_dropped_class_token_takes_its_share(grid, side, expected):
    keys = grid * grid + 1
    attention = {0: BlockAttention(weights=torch.full((1, 1, keys, keys), 1 / keys), kind="global")}
    run = asked(AttentionDistanceProbe(), attention, side=side, size=1)
    (found,), (uniform,) = rows(run, "attention_distance"), rows(run, "uniform_attention_distance")
    assert found.value == pytest.approx(expected, abs=5e-4)
    assert uniform.value == pytest.approx(found.value, abs=1e-4)
    (special,) = rows(run, "special_token_mass")
    assert special.value == pytest.approx(1 / keys)
    run = asked(AttentionDistanceProbe(special="drop"), attention, side=side, size=1)
    assert rows(run, "attention_distance")[0].value == pytest.approx(expected * grid * grid / keys, abs=5e-4)


@pytest.mark.parametrize("special", ["renormalise", "drop"])
def test_patches_that_look_at_themselves_look_nowhere_else(special):
    attention = {0: BlockAttention(weights=torch.eye(17).expand(2, 3, 17, 17), kind="global")}
    run = asked(AttentionDistanceProbe(special=special), attention, side=32)
    assert {row.value for row in rows(run, "attention_distance_of_head")} == {0.0}
    assert rows(run, "attention_distance")[0].value == 0


@pytest.mark.parametrize("special", ["renormalise", "drop"])
@pytest.mark.parametrize("prefix", [(), ("cls",), ("cls", "dist")])
def test_every_head_agrees_with_a_loop_over_everything(special, prefix):
    grid, side, tokens = 4, 40, 16 + len(prefix)
    attention = {b: BlockAttention(weights=softmaxed(2, 3, tokens, tokens, seed=b), kind="global") for b in range(2)}
    run = asked(AttentionDistanceProbe(special=special), attention, side=side, prefix=prefix)
    expected = np.stack([by_hand(attention[b].weights, grid, side / grid, special) for b in range(2)])  # (2, N, heads)
    for row in rows(run, "attention_distance_of_head"):
        of_images = expected[row.dims["block"], :, row.dims["head"]]
        assert row.value == pytest.approx(of_images.mean(), rel=1e-5)
        assert (row.unit, row.n, row.interval) == ("px", 2, "t95")
    for row in rows(run, "attention_distance_of_block"):
        assert row.value == pytest.approx(expected[row.dims["block"]].mean(), rel=1e-5)
    (overall,) = rows(run, "attention_distance")
    assert overall.value == pytest.approx(expected.mean(), rel=1e-5)
    assert overall.interval == "bootstrap95"
    np.testing.assert_allclose(
        run.outcomes().columns["distance_px"], expected.transpose(0, 2, 1).reshape(6, 2), rtol=1e-5
    )
    assert bool(rows(run, "special_token_mass")) == bool(prefix)


def test_the_two_treatments_differ_by_what_the_class_token_gets():
    """Where every patch gives it the same share, dropping shortens the distance by just that."""
    among = softmaxed(1, 1, 9, 9) * 0.75
    weights = torch.zeros(1, 1, 10, 10)
    weights[..., 0] = 0.25
    weights[..., 1:, 1:] = among
    distances = patch_distances_px((3, 3), 48)
    kept, _ = head_distances(weights[:, 0, 1:], distances, "renormalise")
    dropped, special = head_distances(weights[:, 0, 1:], distances, "drop")
    assert special.item() == pytest.approx(0.25)
    assert dropped.item() == pytest.approx(0.75 * kept.item())


def test_half_precision_is_read_in_full():
    weights = softmaxed(2, 1, 17, 17)
    whole, half = (
        rows(
            asked(AttentionDistanceProbe(), {0: BlockAttention(weights=w, kind="global")}, side=32),
            "attention_distance",
        )
        for w in (weights, weights.bfloat16())
    )
    assert half[0].value == pytest.approx(whole[0].value, rel=0.01)


def test_distances_are_those_of_each_blocks_own_grid():
    sizes = {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 4)}
    net = timm.create_model("pit_ti_224", pretrained=False, img_size=64, num_classes=5, **sizes).eval()
    model = PiTModel(net, card(side=64, prefix=()))
    context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
    probe = AttentionDistanceProbe()
    fitted = probe.fit(None, context)
    run = fitted.start()
    batch = sample_batch([0, 1], side_px=64)
    run.update(batch, model.outputs(batch.images, probe.wants(model.info)), None)
    uniform = {row.dims["block"]: row.value for row in rows(run, "uniform_attention_distance")}
    assert uniform == {b: pytest.approx(patch_distances_px((g, g), 64).mean()) for b, g in enumerate((7, 4, 2))}
    heads = [(row.dims["block"], row.dims["head"]) for row in rows(run, "attention_distance_of_head")]
    assert heads == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert isinstance(probe, Probe)
    assert isinstance(fitted, FittedProbe)
    inspection: Inspection = fitted
    assert inspection.shown_images == 0


class TestRefusals:
    def cait(self):
        sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "depth_token_only": 1}
        net = timm.create_model("cait_xxs24_224", pretrained=False, img_size=48, num_classes=5, **sizes).eval()
        return CaiTModel(net, card(side=48, prefix=()))

    @pytest.mark.parametrize(
        ("blocks", "words"), [("all", "no distributions"), ((0,), "no distributions"), ((0, 2), "class tokens alone")]
    )
    def test_mixed_heads_and_class_blocks(self, blocks, words):
        model = self.cait()
        context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
        with pytest.raises(CapabilityError, match=words):
            AttentionDistanceProbe(blocks=blocks).fit(None, context)

    def test_class_blocks_are_left_out_of_all(self):
        tokens = {
            0: BlockAttention(weights=softmaxed(2, 2, 9, 9), kind="global"),
            1: BlockAttention(weights=softmaxed(2, 2, 1, 10), kind="class"),
        }
        run = asked(AttentionDistanceProbe(), tokens, side=24)
        assert {row.dims["block"] for row in rows(run, "attention_distance_of_head")} == {0}

    def test_class_blocks_alone(self):
        with pytest.raises(CapabilityError, match="class tokens alone") as error:
            asked(
                AttentionDistanceProbe(),
                {0: BlockAttention(weights=softmaxed(2, 1, 1, 10), kind="class")},
                side=24,
            )
        assert "attention_pool_maps" in error.value.hint

    def test_a_model_without_attention_and_a_block_that_is_not_there(self):
        with pytest.raises(CapabilityError, match="gives no attention"):
            AttentionDistanceProbe().wants(replace(card(side=32, prefix=()), capabilities=frozenset()))
        with pytest.raises(CapabilityError, match="block 7"):
            AttentionDistanceProbe(blocks=(7,)).wants(tiny_model().info)

    def test_patches_dropped_inside_the_model(self):
        model = tiny_model()
        context = ProbeContext(model=model.info, classes=("a",), label_space=None, seed=0, network=model)
        run = AttentionDistanceProbe().fit(None, context).start()
        fewer = {b: BlockAttention(weights=softmaxed(1, 2, 10, 10), kind="global") for b in range(2)}
        with pytest.raises(CapabilityError, match="dropped"):
            run.update(sample_batch([0], side_px=32), ModelOutputs(attention=fewer), None)

    def test_a_patch_that_looks_at_no_patch(self):
        weights = softmaxed(2, 1, 10, 10)
        weights[1, 0, 4] = 0
        weights[1, 0, 4, 0] = 1
        attention = {0: BlockAttention(weights=weights, kind="global")}
        with pytest.raises(DataError, match=r"sample/0001\.png"):
            asked(AttentionDistanceProbe(), attention, side=24)
        assert rows(asked(AttentionDistanceProbe(special="drop"), attention, side=24), "attention_distance")


class TestParameters:
    @pytest.mark.parametrize(
        ("given", "blocks"), [("all", "all"), ("0+11", (0, 11)), ("-1", (-1,)), (3, (3,)), ([0, 2], (0, 2))]
    )
    def test_blocks_by_text_or_number(self, given, blocks):
        assert coerce(AttentionDistanceParams, {"blocks": given}, "attention_distance").blocks == blocks

    @pytest.mark.parametrize("given", [{"blocks": "alle"}, {"blocks": ()}, {"blocks": 1.5}, {"special": "keep"}])
    def test_others_are_refused(self, given):
        with pytest.raises(ParameterError):
            AttentionDistanceProbe(**given)

    def test_they_are_in_the_card(self):
        probe = AttentionDistanceProbe(blocks=(0, -1), special="drop")
        assert probe.info.params == {"blocks": [0, -1], "special": "drop"}
        assert canonical(AttentionDistanceParams()) == {"blocks": "all", "special": "renormalise"}
        assert probe.wants(tiny_model().info).attention == {0, 1}


class TestExhibit:
    def test_it_leaves_nothing_out(self, finding_of):
        findings = [
            finding_of(AttentionDistanceProbe(), model=f"tiny{i}", condition=condition)
            for i in range(4)
            for condition in ("none", "darken@0.5")
        ]
        made = exhibit(findings)
        assert isinstance(made, Exhibit)
        assert list(made.pictures) == ["", "page2", "blocks"]
        shown = [axes for name in ("", "page2") for axes in made.pictures[name].axes if axes.get_visible()]
        assert [axes.get_title(loc="left") for axes in shown] == [finding.label for finding in findings]
        assert [len(axes.collections[0].get_offsets()) for axes in shown] == [4] * 8  # 2 blocks of 2 heads
        assert [len(made.tables[name].rows) for name in ("", "heads", "blocks", "uniform")] == [8, 32, 16, 16]
        assert len(made.pictures["blocks"].legends[0].get_texts()) == 8

    def test_one_finding_has_one_picture(self, finding_of):
        finding = finding_of(AttentionDistanceProbe(blocks=(1,)))
        made = exhibit([finding])
        assert list(made.pictures) == [""]
        (head,) = [row for row in made.tables["heads"].rows if row[3] == 1]
        measured = finding.record.get("attention_distance_of_head", block=1, head=1)
        assert head == ["tiny", "none", 1, 1, measured.value, measured.low, measured.high, measured.n]


@pytest.mark.slow
def test_the_contract_is_kept():
    (entry,) = harness_register_probes()
    subject = Subject(entry=entry, make=AttentionDistanceProbe, plugin="harness_inspect.attention_distance")
    assert [outcome for outcome in run_checks(subject) if outcome.status == "failed"] == []
