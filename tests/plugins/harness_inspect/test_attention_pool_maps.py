"""Pooling attention of small PatchConvNets and their kin, against the networks' own layers and loops over classes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from scipy.spatial.distance import cityblock
from scipy.stats import entropy

from harness.backbones.attention_pool import AttentionPoolModel, AttentionPoolResNet
from harness.backbones.cait import CaiTModel
from harness.backbones.patchconvnet import PatchConvNet, PatchConvNetModel
from harness.backbones.swin import SwinModel
from harness.errors import CapabilityError, DataError, ParameterError
from harness.protocols import ProbeContext
from harness.testing import Subject, run_checks
from harness.testing.sample import sample_batch, tiny_model
from harness.types import BlockAttention, Capability, ModelInfo, ModelOutputs, OutputSpec, View, WeightsInfo
from harness_inspect.attention_pool_maps import harness_register_probes
from harness_inspect.attention_pool_maps_exhibit import exhibit
from harness_inspect.attention_pool_maps_probe import AttentionPoolMapsProbe, decoded, encoded
from harness_inspect.inspection import MEAN, SHOWN

CLASSES = ("ant", "bee", "cat", "dog", "elk")
LABELS = (0, 1, 2, 3, 4, 0)


def card(*, prefix=(), blocks=1, side=32, space="animals", capable=False) -> ModelInfo:
    return ModelInfo(
        name="imagined",
        family="test",
        weights=WeightsInfo(origin="random", identity="random:imagined:0"),
        view=View(crop=side),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=space,
        num_classes=None,
        num_blocks=blocks,
        embed_dim=8,
        prefix=prefix,
        capabilities=frozenset({Capability.ATTENTION} if capable else ()),
    )


def patchconv(*, per_class: bool) -> PatchConvNetModel:
    """A small one whose attention and logits are far from uniform."""
    net = PatchConvNet(
        width=16, depth=2, num_classes=5, layer_scale=1.0, per_class=per_class, stem_widths=(8, 16), seed=3
    )
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return PatchConvNetModel(net.eval().requires_grad_(False), card())


def context(model, *, space="animals", classes=CLASSES) -> ProbeContext:
    return ProbeContext(model=model.info, classes=classes, label_space=space, seed=0, network=model)


def run_of(model, probe, *, labels=LABELS, **given):
    run = probe.fit(None, context(model, **given)).start()
    batch = sample_batch(list(labels), side_px=model.info.input_size)
    run.update(batch, model.outputs(batch.images, probe.wants(model.info)), None)
    return run


def seen(model, labels=LABELS):
    """Attention (N, tokens, keys) of the last block and logits (N, C), in double precision, from the model itself."""
    last = model.info.attention_blocks[-1]
    want = OutputSpec(logits=True, attention=frozenset({last}))
    outputs = model.outputs(sample_batch(list(labels), side_px=model.info.input_size).images, want)
    return outputs.attention[last].weights[:, 0].double().numpy(), outputs.logits["head"].double().numpy()


def rows(run, metric, **dims):
    return [row for row in run.result() if row.metric == metric and dims.items() <= row.dims.items()]


class TestOneMap:
    def test_it_is_the_class_tokens_row_over_the_patches(self):
        model = patchconv(per_class=False)
        run = run_of(model, AttentionPoolMapsProbe())
        weights, logits = seen(model)
        maps = weights[:, 0, 1:] / weights[:, 0, 1:].sum(axis=1, keepdims=True)
        arrays = run.arrays()
        np.testing.assert_allclose(arrays[f"{SHOWN}map"].reshape(6, -1), maps, rtol=1e-5)
        np.testing.assert_allclose(arrays[f"{MEAN}map"].ravel(), maps.mean(axis=0), rtol=1e-6)
        assert rows(run, "special_token_mass")[0].value == pytest.approx(weights[:, 0, 0].mean(), rel=1e-5)
        bits = entropy(maps, base=2, axis=1)
        assert bits.std() > 0.01
        assert rows(run, "pool_entropy")[0].value == pytest.approx(bits.mean(), rel=1e-5)
        assert rows(run, "effective_patches")[0].value == pytest.approx((2**bits).mean(), rel=1e-5)
        assert rows(run, "effective_share")[0].value == pytest.approx((2**bits).mean() / 64, rel=1e-5)
        left = maps.reshape(6, 8, 8)[:, :, :4].sum(axis=(1, 2))  # the sample's masks
        assert rows(run, "pool_on_object")[0].value == pytest.approx(left.mean(), rel=1e-5)
        assert rows(run, "object_area")[0].value == pytest.approx(0.5)
        assert rows(run, "class_map_distance") == []
        assert arrays[f"{SHOWN}classes"][:, 0].tolist() == logits.argmax(axis=1).tolist()

    def test_the_predicted_class_is_named_with_its_probability(self):
        model = patchconv(per_class=False)
        arrays = run_of(model, AttentionPoolMapsProbe()).arrays()
        _, logits = seen(model)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(arrays[f"{SHOWN}probabilities"][:, 0], chances.max(axis=1), rtol=1e-5)
        named = [decoded(name) for name in arrays[f"{SHOWN}names"][:, 0]]
        assert named == [CLASSES[c] for c in logits.argmax(axis=1)]
        assert [decoded(name) for name in arrays[f"{SHOWN}label_names"]] == [CLASSES[label] for label in LABELS]

    def test_classes_of_another_label_space_are_numbers(self):
        model = patchconv(per_class=False)
        arrays = run_of(model, AttentionPoolMapsProbe(), space="other").arrays()
        _, logits = seen(model)
        named = [decoded(name) for name in arrays[f"{SHOWN}names"][:, 0]]
        assert named == [f"class {c}" for c in logits.argmax(axis=1)]

    def test_of_attention_pooling_behind_a_resnet(self):
        net = AttentionPoolResNet(num_classes=5, blocks=(1, 1, 1, 1)).eval()
        model = AttentionPoolModel(net, card(side=64))
        arrays = run_of(model, AttentionPoolMapsProbe(examples=2)).arrays()
        assert arrays[f"{SHOWN}map"].shape == (2, 2, 2)
        assert arrays[f"{SHOWN}map"].sum(axis=(1, 2)) == pytest.approx([1, 1])

    def test_of_a_class_block_with_heads_it_is_their_mean(self):
        sizes = {"embed_dim": 16, "depth": 1, "num_heads": 4, "depth_token_only": 2}
        net = timm.create_model("cait_xxs24_224", pretrained=False, img_size=48, num_classes=5, **sizes).eval()
        model = CaiTModel(net, card(side=48))
        run = run_of(model, AttentionPoolMapsProbe())
        batch = sample_batch(list(LABELS), side_px=48)
        weights = model.outputs(batch.images, OutputSpec(attention=frozenset({2}))).attention[2].weights
        row = weights.double().mean(dim=1)[:, 0, 1:].numpy()
        expected = row / row.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(run.arrays()[f"{SHOWN}map"].reshape(6, -1), expected, rtol=1e-5)

    def test_of_a_plain_transformer_it_is_the_class_tokens_row_of_the_last_block(self):
        model = tiny_model(classes=5)
        run = run_of(model, AttentionPoolMapsProbe())
        batch = sample_batch(list(LABELS), side_px=32)
        weights = model.outputs(batch.images, OutputSpec(attention=frozenset({1}))).attention[1].weights
        row = weights.double().mean(dim=1)[:, 0, 1:].numpy()
        expected = row / row.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(run.arrays()[f"{SHOWN}map"].reshape(6, -1), expected, rtol=1e-5)

    def test_a_model_without_logits_predicts_nothing(self):
        model = tiny_model()
        headless = replace(
            model.info,
            heads=(),
            label_space=None,
            num_classes=None,
            capabilities=model.info.capabilities - {Capability.LOGITS},
        )
        silent = SimpleNamespace(info=headless, outputs=model.outputs)
        probe = AttentionPoolMapsProbe()
        assert not probe.wants(headless).logits
        arrays = run_of(silent, probe).arrays()
        assert arrays[f"{SHOWN}classes"].tolist() == [[-1]] * 6
        assert np.isnan(arrays[f"{SHOWN}probabilities"]).all()
        assert {decoded(name) for name in arrays[f"{SHOWN}names"][:, 0]} == {""}


class TestMapOfEachClass:
    def test_the_highest_scored_and_the_own_class_are_shown(self):
        model = patchconv(per_class=True)
        arrays = run_of(model, AttentionPoolMapsProbe(classes=2)).arrays()
        weights, logits = seen(model)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        for image, label in enumerate(LABELS):
            chosen = [label, *sorted(range(5), key=lambda c: -logits[image, c])[:2]]
            assert arrays[f"{SHOWN}classes"][image].tolist() == chosen
            assert [decoded(name) for name in arrays[f"{SHOWN}names"][image]] == [CLASSES[c] for c in chosen]
            np.testing.assert_allclose(arrays[f"{SHOWN}probabilities"][image], chances[image, chosen], rtol=1e-5)
            np.testing.assert_allclose(
                arrays[f"{SHOWN}class_maps"][image].reshape(3, -1), weights[image, chosen], rtol=1e-5
            )
        assert weights.sum(axis=2) == pytest.approx(1)

    def test_the_predicted_and_the_own_map_are_measured(self):
        model = patchconv(per_class=True)
        run = run_of(model, AttentionPoolMapsProbe())
        weights, logits = seen(model)
        assert (logits.argmax(axis=1) != LABELS).any()
        for kind, classes in (("predicted", logits.argmax(axis=1)), ("true", LABELS)):
            maps = np.stack([weights[image, c] for image, c in enumerate(classes)])
            (found,) = rows(run, "pool_entropy", map=kind)
            assert found.value == pytest.approx(entropy(maps, base=2, axis=1).mean(), rel=1e-5)
            apart = [cityblock(maps[image], weights[image].mean(axis=0)) / 2 for image in range(6)]
            (found,) = rows(run, "class_map_distance", map=kind)
            assert found.value == pytest.approx(np.mean(apart), rel=1e-4)
        assert rows(run, "special_token_mass") == []
        predicted = np.stack([weights[image, c] for image, c in enumerate(logits.argmax(axis=1))])
        np.testing.assert_allclose(run.arrays()[f"{MEAN}map"].ravel(), predicted.mean(axis=0), rtol=1e-6)

    def test_classes_that_all_look_alike_have_no_distance(self):
        model = patchconv(per_class=True)
        weights = torch.rand(6, 1, 1, 64, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 5, -1)
        same = ModelOutputs(
            logits={"head": torch.arange(30.0).view(6, 5)},
            attention={2: BlockAttention(weights=weights / weights.sum(dim=-1, keepdim=True), kind="class")},
        )
        run = AttentionPoolMapsProbe().fit(None, context(model)).start()
        run.update(sample_batch(list(LABELS), side_px=32), same, None)
        assert [row.value for row in rows(run, "class_map_distance")] == pytest.approx([0, 0], abs=1e-6)

    def test_without_shared_labels_no_map_is_that_of_the_images_class(self):
        run = run_of(patchconv(per_class=True), AttentionPoolMapsProbe(classes=2), space="other")
        assert run.arrays()[f"{SHOWN}class_maps"].shape == (6, 2, 8, 8)
        assert {row.dims.get("map") for row in run.result()} == {"predicted", None}

    def test_no_more_maps_than_classes(self):
        run = run_of(patchconv(per_class=True), AttentionPoolMapsProbe(classes=10))
        assert run.arrays()[f"{SHOWN}class_maps"].shape == (6, 6, 8, 8)

    def test_equal_logits_go_by_the_number_of_the_class(self):
        model = patchconv(per_class=True)
        outputs = ModelOutputs(
            logits={"head": torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]])},
            attention={2: BlockAttention(weights=torch.full((1, 1, 5, 64), 1 / 64), kind="class")},
        )
        run = AttentionPoolMapsProbe(classes=3).fit(None, context(model)).start()
        run.update(sample_batch([0], side_px=32), outputs, None)
        assert run.arrays()[f"{SHOWN}classes"].tolist() == [[0, 1, 2, 4]]


class TestRefusals:
    def test_windows_and_models_without_class_tokens(self):
        sizes = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
        net = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, img_size=32, num_classes=5, **sizes)
        with pytest.raises(CapabilityError, match="windows"):
            run_of(SwinModel(net.eval(), card(side=32)), AttentionPoolMapsProbe())
        outputs = ModelOutputs(attention={0: BlockAttention(weights=torch.full((1, 1, 16, 16), 1 / 16), kind="global")})
        pooled = SimpleNamespace(info=card(capable=True), outputs=lambda images, want: outputs)
        with pytest.raises(CapabilityError, match="no class token"):
            AttentionPoolMapsProbe().fit(None, context(pooled))

    def test_a_model_without_attention(self):
        with pytest.raises(CapabilityError, match="gives no attention"):
            AttentionPoolMapsProbe().wants(card())

    def test_a_map_of_each_class_without_logits_that_choose(self):
        model = patchconv(per_class=True)
        silent = replace(model.info, heads=(), capabilities=model.info.capabilities - {Capability.LOGITS})
        headless = SimpleNamespace(info=silent, outputs=model.outputs)
        with pytest.raises(CapabilityError, match="no logits"):
            AttentionPoolMapsProbe().fit(None, context(headless))

    def test_numbers_that_are_none(self):
        model = patchconv(per_class=False)
        probe = AttentionPoolMapsProbe()
        run = probe.fit(None, context(model)).start()
        batch = sample_batch([0, 1], side_px=32)
        outputs = model.outputs(batch.images, probe.wants(model.info))
        weights = outputs.attention[2].weights.clone()
        weights[1, ..., 1:] = 0
        broken = replace(outputs, attention={2: BlockAttention(weights=weights, kind="class")})
        with pytest.raises(DataError, match=r"sample/0001\.png"):
            run.update(batch, broken, None)
        logits = outputs.logits["head"].clone()
        logits[0, 0] = torch.nan
        with pytest.raises(DataError, match="logits of imagined"):
            run.update(batch, replace(outputs, logits={"head": logits}), None)

    @pytest.mark.parametrize("given", [{"classes": 0}, {"classes": 11}, {"examples": -1}])
    def test_impossible_parameters(self, given):
        with pytest.raises(ParameterError):
            AttentionPoolMapsProbe(**given)


def test_names_survive_as_bytes_and_are_cut_between_letters():
    names = ["", "ant", "ä" * 20, "a" + "ä" * 20, "x" * 50]
    assert [decoded(row) for row in encoded(names)] == ["", "ant", "ä" * 20, "a" + "ä" * 19, "x" * 40]


class TestExhibit:
    def found(self, finding_of, model, name, **given):
        """A finding of the probe on ``model``, in the shape of one on the kit's."""
        finding = finding_of(AttentionPoolMapsProbe(), model=name)
        run = run_of(model, AttentionPoolMapsProbe(**given))
        record = replace(finding.record, measurements=tuple(run.result()))
        return replace(finding, record=record, arrays=run.arrays(), outcomes=run.outcomes())

    def test_both_kinds_of_models_are_shown(self, finding_of):
        one = self.found(finding_of, patchconv(per_class=False), "single", examples=2)
        each = self.found(finding_of, patchconv(per_class=True), "multi", examples=2, classes=2)
        made = exhibit([one, each])
        assert list(made.pictures) == ["", "multi", "numbers"]
        titles = [axes.get_title().replace("\n", " ") for axes in made.pictures["multi"].axes]
        names = [[decoded(name) for name in row] for row in each.arrays[f"{SHOWN}names"]]
        assert titles[0] == decoded(each.arrays[f"{SHOWN}label_names"][0])
        assert titles[1].startswith("own class, ")
        assert titles[2].startswith(f"1. {names[0][1]}, ")
        assert titles[3].startswith(f"2. {names[0][2]}, ")
        assert len(titles) == 8
        assert {row[0] for row in made.tables[""].rows} == {"single", "multi"}
        rows_of_chart = [label.get_text() for label in made.pictures["numbers"].axes[0].get_yticklabels()]
        assert rows_of_chart == ["single", "multi (predicted)", "multi (true)"]

    def test_many_examples_are_split(self, finding_of):
        each = self.found(finding_of, patchconv(per_class=True), "multi", examples=6, classes=1)
        doubled = {
            name: np.concatenate([values, values]) if name.startswith(SHOWN) else values
            for name, values in each.arrays.items()
        }
        made = exhibit([replace(each, arrays=doubled)])
        assert list(made.pictures) == ["", "multi page2", "numbers"]

    def test_without_examples_there_are_the_numbers(self, finding_of):
        each = self.found(finding_of, patchconv(per_class=True), "multi", examples=0)
        assert list(exhibit([each]).pictures) == [""]


@pytest.mark.slow
def test_the_contract_is_kept():
    (entry,) = harness_register_probes()
    subject = Subject(entry=entry, make=AttentionPoolMapsProbe, plugin="harness_inspect.attention_pool_maps")
    assert [outcome for outcome in run_checks(subject) if outcome.status == "failed"] == []
