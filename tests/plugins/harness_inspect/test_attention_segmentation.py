"""Attention as a segmentation: against slow loops, closed forms, and the definition that the mini study wrote apart."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from harness import rng
from harness.errors import CapabilityError, DataError, ParameterError
from harness.params import canonical
from harness.protocols import ProbeContext
from harness.testing.kit import Subject, run_checks
from harness.testing.sample import TinyModel, sample_batch, take_images, take_outputs, tiny_model, without
from harness.types import BlockAttention, Capability, ModelOutputs, OutputSpec
from harness.weights import WeightsChoice
from harness_inspect.attention_mass import smallest_sets
from harness_inspect.attention_segmentation import AttentionSegmentationParams, harness_register_probes
from harness_inspect.attention_segmentation_exhibit import exhibit
from harness_inspect.attention_segmentation_probe import AttentionSegmentationProbe
from harness_inspect.object_regions import count_regions
from harness_inspect.segmentation_baselines import (
    central_sets,
    moved,
    random_orders,
    scattered,
    shifted_sums,
    tie_breaks,
)
from harness_inspect.segmentation_rules import by_rule, cross_fitted, later_half, of_fixed
from harness_mini.models import build_model
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import measures
from harness_mini.zoo import VIEW

GRID, SIDE = (4, 4), 32


# --- the smallest sets -------------------------------------------------------------------------------------------


def smallest_by_hand(values, ties, mass):
    """Cells from the greatest on until they hold the share, in exact arithmetic."""
    order = sorted(range(len(values)), key=lambda cell: (values[cell], ties[cell]), reverse=True)
    wanted = Fraction(mass) * sum(map(Fraction, values))
    held, chosen = Fraction(0), set()
    for cell in order:
        if held >= wanted:
            break
        chosen.add(cell)
        held += Fraction(values[cell])
    return [cell in chosen for cell in range(len(values))]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=24).filter(any),
    st.sampled_from(["0.1", "0.25", "0.5", "0.6", "0.75", "0.9", "0.99"]),
    st.integers(0, 1000),
)
def test_sets_are_the_fewest_cells_that_hold_the_mass(values, mass, seed):
    ties = rng.bits(seed, "ties", ["x"], len(values))[0]
    found = smallest_sets(np.array(values, float), float(mass), ties)
    assert found.tolist() == smallest_by_hand(values, ties.tolist(), mass)


def test_uniform_maps_give_the_share_of_the_cells_rounded_up_in_no_order_of_rows():
    ties = tie_breaks(["a", "b"], 100)
    sets = smallest_sets(np.full((2, 100), 0.01), 0.9, ties)
    assert sets.sum(axis=1).tolist() == [90, 90]
    assert (sets[0] != sets[1]).any()
    for row in sets:
        assert row[:90].sum() not in (90, 80)


def test_the_ends_are_nothing_and_everything_and_masses_are_nested():
    maps = np.random.default_rng(0).gamma(0.3, size=(5, 196))
    maps[:, ::3] = 0
    ties = tie_breaks(list("abcde"), 196)
    masses = [0.0, 1e-12, 0.2, 0.6, 0.9, 1 - 1e-12, 1.0]
    sets = [smallest_sets(maps, mass, ties) for mass in masses]
    assert not sets[0].any()
    assert sets[-1].all()
    assert (sets[1].sum(axis=1) == 1).all()
    for smaller, larger in pairwise(sets):
        assert (larger | ~smaller).all()
    assert not sets[-2][:, ::3].any()


# --- regions -----------------------------------------------------------------------------------------------------


def jaccard_by_hand(cells, regions, grid, number, *, void):
    """Pixel by pixel, with the nearest cell of each."""
    height, width = regions.shape
    both = either = 0
    for y in range(height):
        for x in range(width):
            if void == "ignore" and regions[y, x] == 255:
                continue
            masked = cells[int(y * grid[0] / height) * grid[1] + int(x * grid[1] / width)]
            inside = regions[y, x] == number
            both += masked and inside
            either += masked or inside
    return both / either


@pytest.mark.parametrize("void", ["ignore", "background"])
@pytest.mark.parametrize(("side", "grid"), [((12, 12), (4, 4)), ((10, 13), (3, 4)), ((3, 5), (4, 6))])
def test_jaccard_is_that_of_a_slow_loop_over_pixels(side, grid, void):
    generator = np.random.default_rng(3)
    regions = generator.choice(np.array([0, 2, 7, 255], np.uint8), size=side, p=[0.4, 0.3, 0.2, 0.1])
    sets = generator.random((5, grid[0] * grid[1])) < 0.5
    objects = count_regions(regions, grid, void)
    assert objects.classes.tolist() == [2, 7]
    expected = [[jaccard_by_hand(cells, regions, grid, number, void=void) for number in (2, 7)] for cells in sets]
    np.testing.assert_allclose(objects.jaccard(sets), expected, rtol=1e-12)


def test_area_and_mass_are_shares_of_pixels():
    regions = np.zeros((8, 8), np.uint8)
    regions[:4, :4] = 3
    regions[4:, 4:] = 255
    objects = count_regions(regions, (2, 2), "ignore")
    maps = np.array([0.4, 0.2, 0.2, 0.2])
    assert objects.area(np.array([True, False, False, True])) == 0.5
    assert objects.object_area == pytest.approx(16 / 48)
    assert objects.mass_on_object(maps) == pytest.approx(0.4 / 0.8)
    assert count_regions(regions, (2, 2), "background").mass_on_object(maps) == pytest.approx(0.4)
    assert count_regions(np.full((8, 8), 255, np.uint8), (2, 2), "ignore") is None


# --- baselines ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scene():
    """Overlapping masks of three heads and their average on a grid of 3 x 4, and two regions with void."""
    generator = np.random.default_rng(1)
    regions = generator.choice(np.array([0, 1, 2, 255], np.uint8), size=(12, 12), p=[0.5, 0.2, 0.2, 0.1])
    return generator.random((4, 12)) < 0.4, count_regions(regions, (3, 4), "ignore")


def test_the_smooth_baseline_is_the_mean_over_every_shift_of_all_masks_together(scene):
    sets, objects = scene
    values, areas = [], set()
    for down in range(3):
        for across in range(4):
            rolled = np.roll(sets.reshape(-1, 3, 4), (down, across), axis=(1, 2)).reshape(-1, 12)
            values.append(by_rule(objects.jaccard(rolled)))
            areas.add(tuple(rolled.sum(axis=1)))
    assert areas == {tuple(sets.sum(axis=1))}
    np.testing.assert_allclose(moved(sets, objects, (3, 4), by_rule), np.mean(values, axis=0), rtol=1e-12)


def test_shifted_sums_are_exact_and_ordered_as_rolls():
    generator = np.random.default_rng(2)
    sets, counts = generator.random((3, 35)) < 0.5, generator.integers(0, 10**6, (2, 35)).astype(float)
    found = shifted_sums(sets, counts, (5, 7))
    rolled = np.roll(sets.reshape(3, 5, 7), (2, 6), axis=(1, 2)).reshape(3, 35)
    assert np.array_equal(found[2 * 7 + 6], rolled.astype(float) @ counts.T)


def test_masks_without_a_place_score_what_they_score_anywhere(scene):
    _, objects = scene
    everything = np.ones((4, 12), bool)
    np.testing.assert_allclose(moved(everything, objects, (3, 4), by_rule), by_rule(objects.jaccard(everything)))


def test_strewn_masks_keep_their_areas_and_overlaps_and_have_nothing_else(scene):
    sets, objects = scene
    orders = random_orders(["x", "y"], 12)
    assert np.array_equal(random_orders(["y"], 12), orders[1:])
    values = []
    for order in orders[0]:
        strewn = np.stack([cells[order] for cells in sets])
        assert np.array_equal(strewn.astype(int) @ strewn.T, sets.astype(int) @ sets.T)
        values.append(by_rule(objects.jaccard(strewn)))
    np.testing.assert_allclose(scattered(sets, objects, orders[0], by_rule), np.mean(values, axis=0), rtol=1e-12)


def test_central_sets_are_the_nearest_cells_of_equal_number():
    ties = tie_breaks(["x"], 35)[0]
    sizes = np.array([0, 1, 9, 20, 35])
    sets = central_sets(sizes, (5, 7), ties)
    assert sets.sum(axis=1).tolist() == sizes.tolist()
    assert np.flatnonzero(sets[1]).tolist() == [17]
    down, across = np.divmod(np.arange(35), 7)
    distances = np.hypot((down - 2) / 5, (across - 3) / 7)
    for cells in sets[1:-1]:
        assert distances[cells].max() <= distances[~cells].min() + 1e-12


def test_the_oracle_among_equal_sets_gains_nothing_and_among_scattered_ones_it_does():
    """Best of six at chance lies above the mean of six: why a baseline needs the rule and the number of heads."""
    regions = np.zeros((28, 28), np.uint8)
    regions[4:18, 6:20] = 1
    objects = count_regions(regions, (14, 14), "ignore")
    one = np.zeros((1, 196), bool)
    one[0, 60:140] = True
    same = moved(np.repeat(one, 7, axis=0), objects, (14, 14), by_rule)
    assert same[0] == pytest.approx(same[1])
    heads = np.stack([np.roll(one[0].reshape(14, 14), 2 * i, axis=0).ravel() for i in range(7)])
    apart = moved(heads, objects, (14, 14), by_rule)
    assert apart[0] > apart[1] + 0.05


# --- rules -------------------------------------------------------------------------------------------------------


def test_halves_are_equal_and_each_is_asked_with_the_head_the_other_chose():
    keys = np.array([0.9, 0.1, 0.5, 0.3, 0.7])
    later = later_half(keys)
    assert later.tolist() == [True, False, False, False, True]
    assert later_half(np.array([0.3])).tolist() == [False]
    scores = np.array([[0.9, 0.0, 0.1, 0.1, 0.8], [0.2, 0.6, 0.5, 0.7, 0.1]])
    chosen = cross_fitted(scores, later)
    assert chosen == (0, 1)
    # Head 0 wins the later half and is asked about the earlier one, where it is bad, and the other way round.
    assert of_fixed(scores, chosen, later).tolist() == [0.2, 0.0, 0.1, 0.1, 0.1]


# --- the probe ---------------------------------------------------------------------------------------------------


def fitted(probe, model):
    info = model.info
    return probe.fit(None, ProbeContext(model=info, classes=["a"], label_space=None, seed=0, network=model))


def asked(probe, model, batch, *, outputs=None, size=None):
    outputs = outputs or model.outputs(batch.images, probe.wants(model.info))
    run = fitted(probe, model).start()
    for start in range(0, len(batch), size or len(batch)):
        rows = list(range(start, min(start + (size or len(batch)), len(batch))))
        run.update(take_images(batch, rows), take_outputs(outputs, rows), None)
    return run


def table(run):
    return {(m.metric, *m.dims.values()): m for m in run.result()}


def attending(*maps, share=0.75):
    """Outputs whose class token looks at ``maps`` (N, heads, cells) with ``share`` of its attention, else at itself."""
    weights = torch.tensor(np.array(maps), dtype=torch.float32)
    n, heads, cells = weights.shape
    rows = torch.full((n, heads, cells + 1, cells + 1), 1 / (cells + 1))
    rows[:, :, 0, 0] = 1 - share
    rows[:, :, 0, 1:] = share * weights / weights.sum(dim=2, keepdim=True)
    return ModelOutputs(attention={1: BlockAttention(weights=rows, kind="global")})


def on(*cells):
    found = np.zeros(16)
    found[list(cells)] = 1.0
    return found


def images(regions):
    """A batch of images with regions (N, 32, 32), numbers of 4 x 4 cells of 8 pixels."""
    batch = sample_batch([0] * len(regions), side_px=SIDE)
    cells = torch.tensor(np.array(regions), dtype=torch.uint8).view(-1, 4, 4)
    return replace(batch, regions=cells.repeat_interleave(8, 1).repeat_interleave(8, 2), masks=None)


def test_the_descriptor_agrees_with_the_probe():
    (entry,) = harness_register_probes()
    probe = AttentionSegmentationProbe(mass=0.6, head=1)
    assert (probe.info.name, probe.info.headline, probe.info.version) == (entry.name, entry.headline, entry.version)
    assert probe.info.params == canonical(AttentionSegmentationParams(mass=0.6, head=1))
    assert AttentionSegmentationProbe().info.params == canonical(AttentionSegmentationParams())


@pytest.mark.slow
def test_it_keeps_the_contract():
    (entry,) = harness_register_probes()
    subject = Subject(entry=entry, make=AttentionSegmentationProbe, plugin="harness_inspect.attention_segmentation")
    assert {c.check: c.message for c in run_checks(subject) if c.status == "failed"} == {}


def test_the_oracle_is_that_of_the_study_which_was_written_apart():
    dataset, model = Shapes(), build_model("deit_mini_shape", weights=WeightsChoice())
    expected = measures.jaccard(
        model, measures.Images(dataset=dataset, split="test", count=24), mass=0.9, token="shape"
    )
    batch = dataset.load("test", range(24), VIEW)
    run = asked(AttentionSegmentationProbe(token="shape"), model, batch)
    outcomes = run.outcomes()
    assert outcomes.variants[0] == {"rule": "oracle"}
    np.testing.assert_allclose(outcomes.columns["jaccard"][0], expected, rtol=1e-12)
    assert table(run)["jaccard", "oracle"].value == pytest.approx(expected.mean())


def test_heads_are_picked_by_image_and_class_for_the_oracle_alone():
    # Class 1 fills cells 0 and 1, class 2 cells 10 and 11; head 0 looks at the one, head 1 at the other.
    regions = 1 * on(0, 1) + 2 * on(10, 11)
    found = table(
        asked(
            AttentionSegmentationProbe(),
            tiny_model(),
            images([regions, regions]),
            outputs=attending([on(0, 1), on(10, 11)], [on(0, 1), on(10, 11)]),
        )
    )
    assert found["jaccard", "oracle"].value == 1.0
    assert found["jaccard", "mean"].value == 0.5
    assert found["jaccard", "fixed"].value == 0.5
    assert found["jaccard", "head_averaged"].value == 0.5  # two of its four cells, for either class
    assert found["area", "oracle"].value == 2 / 16
    assert found["area", "head_averaged"].value == 4 / 16
    assert found["mass_on_object", "mean"].value == pytest.approx(1.0)
    assert found["object_area",].value == 4 / 16
    assert found["jaccard", "oracle"].n == 2
    assert found["jaccard_minus_chance", "oracle"].unit == "difference"
    assert ("mass_on_object", "oracle") not in found


def test_measurements_follow_from_the_values_of_every_image():
    batch = sample_batch([0, 1, 2, 3, 4, 5, 6], side_px=SIDE)
    run = asked(AttentionSegmentationProbe(mass=0.6), tiny_model(), batch, size=2)
    outcomes, found = run.outcomes(), table(run)
    jaccard, smooth = outcomes.columns["jaccard"], outcomes.columns["jaccard_random_smooth"]
    rows = [variant["rule"] for variant in outcomes.variants]
    assert rows == ["oracle", "mean", "head_averaged", "head", "head"]
    assert (jaccard[0] >= jaccard[3:].max(axis=0) - 1e-12).all()
    np.testing.assert_allclose(jaccard[1], jaccard[3:].mean(axis=0))
    for row, rule in enumerate(rows[:3]):
        assert found["jaccard", rule].value == pytest.approx(jaccard[row].mean())
        assert found["jaccard_minus_chance", rule].value == pytest.approx((jaccard[row] - smooth[row]).mean())
    keys = rng.uniforms(0, "segmentation.halves", batch.ids, 1)[:, 0]
    later = keys >= np.sort(keys)[4]
    first, second = (jaccard[3:, half].mean(axis=1).argmax() for half in (later, ~later))
    assert (found["fixed_head", 1].value, found["fixed_head", 2].value) == (first, second)
    assert found["jaccard", "fixed"].value == pytest.approx(
        np.where(later, jaccard[3:][second], jaccard[3:][first]).mean()
    )
    assert found["jaccard_of_head", 1].value == pytest.approx(jaccard[4].mean())


def test_a_head_that_is_named_is_the_fixed_one_and_a_single_image_has_no_halves():
    batch = sample_batch([0, 1, 2], side_px=SIDE)
    found = table(asked(AttentionSegmentationProbe(head=1), tiny_model(), batch))
    assert found["jaccard", "fixed"].value == found["jaccard_of_head", 1].value
    assert not any(metric == "fixed_head" for metric, *_ in found)
    alone = table(asked(AttentionSegmentationProbe(), tiny_model(), take_images(batch, [0])))
    assert ("jaccard", "fixed") not in alone
    assert ("jaccard", "oracle") in alone
    named = table(asked(AttentionSegmentationProbe(head=0), tiny_model(), take_images(batch, [0])))
    assert ("jaccard", "fixed") in named


def test_uniform_attention_is_as_good_as_chance():
    regions = on(5, 6, 9, 10)
    outputs = attending(*[[np.ones(16), np.ones(16)]] * 40)
    found = table(asked(AttentionSegmentationProbe(mass=0.5), tiny_model(), images([regions] * 40), outputs=outputs))
    rules = {rule: found["jaccard", rule].value for rule in ("oracle", "mean", "fixed", "head_averaged")}
    assert len(set(rules.values())) == 1  # equal cells come in one order for all heads of an image
    for rule in rules:
        row = found["jaccard_minus_chance", rule]
        assert row.low <= 0 <= row.high
        assert found["area", rule].value == 0.5
    # All the mass is all the image, wherever it is.
    whole = table(asked(AttentionSegmentationProbe(mass=1.0), tiny_model(), images([regions] * 40), outputs=outputs))
    assert whole["jaccard", "oracle"].value == 0.25
    assert whole["jaccard_minus_chance", "oracle"].value == pytest.approx(0, abs=1e-12)
    assert whole["jaccard_minus_centre", "oracle"].value == pytest.approx(0, abs=1e-12)


def test_void_is_left_out_or_background():
    regions = 1 * on(0) + 255 * on(1)
    outputs = attending([on(0, 1), on(0, 1)])
    for void, expected in (("ignore", 1.0), ("background", 0.5)):
        found = table(asked(AttentionSegmentationProbe(void=void), tiny_model(), images([regions]), outputs=outputs))
        assert found["jaccard", "oracle"].value == expected


def test_masks_stand_in_for_regions_and_images_without_an_object_are_counted():
    batch = sample_batch([0, 1, 2], side_px=SIDE)
    masks = batch.masks.clone()
    masks[1] = False
    run = asked(AttentionSegmentationProbe(), tiny_model(), replace(batch, masks=masks))
    found = table(run)
    assert found["images_without_object",].value == 1
    assert found["images_without_object",].n == 3
    assert found["jaccard", "oracle"].n == 2
    assert np.isnan(run.outcomes().columns["jaccard"][:, 1]).all()
    as_regions = replace(batch, masks=None, regions=7 * masks.to(torch.uint8))
    assert table(asked(AttentionSegmentationProbe(), tiny_model(), as_regions)) == found


def test_images_that_tell_no_objects_are_refused():
    batch = replace(sample_batch([0, 1], side_px=SIDE), masks=None)
    with pytest.raises(DataError, match="does not tell where the objects are") as caught:
        asked(AttentionSegmentationProbe(), tiny_model(), batch)
    assert "voc" in caught.value.hint
    empty = replace(batch, masks=torch.zeros(2, SIDE, SIDE, dtype=torch.bool))
    with pytest.raises(DataError, match="none of 2 images has an object"):
        asked(AttentionSegmentationProbe(), tiny_model(), empty).result()


@pytest.mark.parametrize("broken", [np.nan, 0.0, -1.0])
def test_attention_that_is_none_is_refused_by_the_name_of_its_image(broken):
    outputs = attending([np.ones(16), np.ones(16)], [np.ones(16), np.ones(16)])
    outputs.attention[1].weights[1, 1, 0, 1:] = broken
    with pytest.raises(DataError, match=r"1 of 2 images of a batch: sample/0001\.png"):
        asked(AttentionSegmentationProbe(), tiny_model(), images([on(1), on(2)]), outputs=outputs)


def test_half_precision_is_read_exactly():
    regions = [on(0, 1), on(4, 5)]
    outputs = attending([on(0, 1), on(0, 2)], [on(4, 5), on(4, 6)])
    halved = replace(outputs.attention[1], weights=outputs.attention[1].weights.to(torch.bfloat16))
    found = table(
        asked(
            AttentionSegmentationProbe(),
            tiny_model(),
            images(regions),
            outputs=replace(outputs, attention={1: halved}),
        )
    )
    assert found["jaccard", "oracle"].value == 1.0
    assert found["jaccard_of_head", 1].value == pytest.approx(1 / 3)


def test_what_a_model_has_not_is_refused():
    model = tiny_model()
    with pytest.raises(CapabilityError, match="gives no attention"):
        AttentionSegmentationProbe().wants(without(model.info, frozenset({Capability.ATTENTION})))
    with pytest.raises(CapabilityError, match="no attention of block 5"):
        AttentionSegmentationProbe(block=5).wants(model.info)
    with pytest.raises(CapabilityError, match="no token named 'shape'"):
        fitted(AttentionSegmentationProbe(token="shape"), model)
    with pytest.raises(CapabilityError, match="has 2 heads in block 1, and no head 2") as caught:
        fitted(AttentionSegmentationProbe(head=2), model)
    assert "0 to 1" in caught.value.hint
    with pytest.raises(CapabilityError, match="no class token for each class"):
        fitted(AttentionSegmentationProbe(token="predicted"), model)
    with pytest.raises(CapabilityError, match="predicts no class"):
        AttentionSegmentationProbe(token="predicted").wants(without(model.info, frozenset({Capability.LOGITS})))


def test_rows_that_are_no_distributions_hold_no_share(monkeypatch):
    plain = TinyModel.outputs

    def mixed(self, images, want):
        found = plain(self, images, want)
        return replace(found, attention={i: replace(given, distribution=False) for i, given in found.attention.items()})

    monkeypatch.setattr(TinyModel, "outputs", mixed)
    with pytest.raises(CapabilityError, match="are no distributions"):
        fitted(AttentionSegmentationProbe(), tiny_model())


@pytest.mark.parametrize("wrong", [{"mass": 1.5}, {"mass": -0.1}, {"head": -1}, {"token": ""}, {"void": "keep"}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ParameterError):
        AttentionSegmentationProbe(**wrong)


def test_the_mean_over_patches_can_ask():
    model, batch = tiny_model(), sample_batch([0, 1], side_px=SIDE)
    weights = model.outputs(batch.images, OutputSpec(attention=frozenset({0}))).attention[0].weights
    row = weights[:, :, 1:, 1:].double().mean(dim=2).numpy()
    sets = smallest_sets(row, 0.9, tie_breaks(batch.ids, 16)[:, None])
    expected = [(head & left).sum() / (head | left).sum() for head in sets[0] for left in [np.arange(16) % 4 < 2]]
    run = asked(AttentionSegmentationProbe(token="mean", block=0), model, batch)
    np.testing.assert_allclose(run.outcomes().columns["jaccard"][3:, 0], expected)


@pytest.mark.parametrize(("name", "token"), [("patchconv_mini", "cls"), ("patchconv_mini_multi", "predicted")])
def test_attention_of_class_tokens_alone(name, token):
    dataset, model = Shapes(), build_model(name, weights=WeightsChoice())
    batch = dataset.load("test", range(6), VIEW)
    probe = AttentionSegmentationProbe(token=token)
    outputs = model.outputs(batch.images, probe.wants(model.info))
    (attention,) = outputs.attention.values()
    rows = attention.weights[:, :, 0] if token == "cls" else None
    if rows is None:
        predicted = outputs.logits["head"].argmax(dim=1).tolist()
        rows = torch.stack([attention.weights[i, :, c] for i, c in enumerate(predicted)])
    sets = smallest_sets(rows[:, :, -196:].double().numpy(), 0.9, tie_breaks(batch.ids, 196)[:, None])
    regions = batch.masks.numpy().astype(np.uint8)
    expected = [count_regions(regions[i], (14, 14), "ignore").jaccard(sets[i])[0, 0] for i in range(6)]
    found = asked(probe, model, batch, outputs=outputs).outcomes().columns["jaccard"]
    np.testing.assert_allclose(found, np.broadcast_to(expected, (4, 6)), rtol=1e-6)


def test_trained_attention_beats_chance_and_untrained_does_not():
    batch = Shapes().load("test", range(60), VIEW)
    found = {
        origin: table(
            asked(
                AttentionSegmentationProbe(examples=0),
                build_model("vit_mini", weights=WeightsChoice(origin=origin)),
                batch,
            )
        )
        for origin in ("pretrained", "random")
    }
    for rule in ("oracle", "mean", "fixed", "head_averaged"):
        assert found["pretrained"]["jaccard_minus_chance", rule].low > 0.03
        assert found["random"]["jaccard_minus_chance", rule].value < 0.01


# --- what is shown -----------------------------------------------------------------------------------------------


def test_arrays_hold_the_images_shown_with_their_best_heads():
    batch = sample_batch([0, 1, 2, 3], side_px=SIDE)
    run = asked(AttentionSegmentationProbe(examples=3), tiny_model(), batch, size=3)
    arrays, outcomes = run.arrays(), run.outcomes()
    places = arrays["shown.positions"]
    assert len(places) == 3
    assert arrays["shown.images"].shape == (3, 3, SIDE, SIDE)
    assert arrays["shown.regions"].dtype == np.uint8
    heads = outcomes.columns["jaccard"][3:]
    rows = np.searchsorted(outcomes.positions, places)
    assert arrays["shown.best_head"].tolist() == heads[:, rows].argmax(axis=0).tolist()
    np.testing.assert_allclose(arrays["shown.scores"][:, 0], heads[:, rows].max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(arrays["shown.averaged"].sum(axis=(1, 2)), 1, rtol=1e-6)
    assert asked(AttentionSegmentationProbe(examples=0), tiny_model(), batch).arrays() == {}


def test_the_exhibit_shows_every_finding(finding_of):
    findings = [
        finding_of(AttentionSegmentationProbe(examples=14), model=model, condition=condition)
        for model in ("tiny", "other")
        for condition in ("none", "darken@0.5")
    ]
    made = exhibit(findings)
    assert set(made.pictures) == {
        "",
        "differences",
        *(f"examples {name}" for name in ("tiny", "tiny, darken@0.5", "other", "other, darken@0.5")),
        *(f"examples {name} 2" for name in ("tiny", "tiny, darken@0.5", "other", "other, darken@0.5")),
    }
    assert all(isinstance(figure, Figure) for figure in made.pictures.values())
    rows = [dict(zip(made.tables[""].header, row, strict=True)) for row in made.tables[""].rows]
    assert len(rows) == 4 * 4
    told = next(row for row in rows if (row["model"], row["condition"], row["rule"]) == ("other", "none", "fixed"))
    record = findings[2].record
    assert told["jaccard"] == record.get("jaccard", rule="fixed").value
    assert told["jaccard_random_smooth"] == record.get("jaccard_random_smooth", rule="fixed").value
    assert len(made.tables["heads"].rows) == 4 * 2
    made.pictures[""].canvas.draw()


def test_many_findings_and_none_of_the_images_can_be_drawn(finding_of):
    finding = finding_of(AttentionSegmentationProbe(examples=0))
    many = [replace(finding, model=f"model {i}") for i in range(45)]
    made = exhibit(many)
    assert set(made.pictures) == {"", "differences", "page2", "differencespage2"}
    assert len(made.tables[""].rows) == 45 * 4


def test_an_image_without_an_object_is_shown_as_such(finding_of):
    batch = sample_batch([0, 1], side_px=SIDE)
    masks = batch.masks.clone()
    masks[0] = False
    run = asked(AttentionSegmentationProbe(), tiny_model(), replace(batch, masks=masks))
    finding = replace(finding_of(AttentionSegmentationProbe()), arrays=run.arrays(), outcomes=run.outcomes())
    figure = exhibit([finding]).pictures["examples tiny"]
    titles = [axes.get_title() for axes in figure.axes]
    assert "no object" in titles
    figure.canvas.draw()
