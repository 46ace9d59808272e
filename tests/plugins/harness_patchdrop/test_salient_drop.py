"""Drops by saliency against a loop over images in exact fractions; one map per image, whatever batch and run."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

import harness
from harness import rng
from harness.catalog import build_catalog
from harness.errors import ParameterError
from harness.manager import build_manager
from harness.outcome_files import open_outcomes
from harness.params import canonical
from harness.protocols import HasMaps, Perturbation, PerturbationContext
from harness.testing import check_named
from harness.testing.sample import TinyModel, TinyShape
from harness.types import ImageBatch, View
from harness.weights import WeightsChoice
from harness_mini.models import build_model
from harness_patchdrop.plugin import harness_register_perturbations
from harness_patchdrop.random_drop import RandomPatchDrop
from harness_patchdrop.salient_drop import MatchedPatchDrop, NonsalientPatchDrop, SalientPatchDrop

IDS = tuple(f"val/{i:03}.png" for i in range(7))
TENTHS = range(11)


class Counting(TinyModel):
    """A tiny transformer of 14x14 patches that counts the images it is asked about."""

    def __init__(self, seed=0):
        super().__init__(shape=TinyShape(side_px=56, patch_px=4, classes=5), label_space="sample", seed=seed)
        self.images = 0

    def outputs(self, images, want):
        self.images += len(images)
        return super().outputs(images, want)


def batch_of(ids=IDS) -> ImageBatch:
    """Images without a black pixel, whose foreground is a rectangle that differs by image."""
    images = 0.25 + 0.75 * rng.dense_uniforms(0, "test.images", ids, (3, 56, 56))
    corners = rng.integers(0, "test.corners", ids, 4, 0, 28)
    y, x = np.mgrid[:56, :56]
    masks = [
        (y >= top) & (y < top + 5 + high) & (x >= left) & (x < left + 5 + wide) for top, left, high, wide in corners
    ]
    return ImageBatch(
        images=torch.from_numpy(images),
        labels=torch.arange(len(ids)),
        ids=tuple(ids),
        positions=np.arange(len(ids)),
        masks=torch.from_numpy(np.stack(masks)),
    )


def prepared(perturbation, *, seed=0, **fields):
    perturbation.prepare(
        PerturbationContext(
            seed=seed,
            view=View(crop=56),
            device=torch.device("cpu"),
            dataset_fingerprint="data",
            num_classes=5,
            **fields,
        )
    )
    return perturbation


def apply(perturbation, batch, level) -> ImageBatch:
    return perturbation.apply(batch, perturbation.begin(batch), level)


def black(batch):
    return (batch.images == 0).all(dim=1)


def cells_dropped(batch, grid=(14, 14)):
    """(N, cells) bool, of a grid that divides the image; a cell is black as a whole or not at all."""
    n, rows, columns = len(batch), *grid
    pixels = black(batch).reshape(n, rows, 56 // rows, columns, 56 // columns)
    assert torch.equal(pixels.any(4).any(2), pixels.all(4).all(2))
    return pixels.all(4).all(2).reshape(n, -1).numpy()


def salient_cells(mass, image_id, share):
    """The definition, cell by cell: in iff the sum so far is above (1 - Q) of the whole; the ends are explicit."""
    if share in (0, 1):
        return np.full(len(mass), bool(share))
    ties = rng.bits(0, "patchdrop.ties", [image_id], len(mass))[0]
    chosen, so_far, whole = np.zeros(len(mass), bool), Fraction(0), sum(map(Fraction, mass.tolist()))
    for cell in sorted(range(len(mass)), key=lambda cell: (mass[cell], ties[cell])):
        so_far += Fraction(mass[cell].item())
        chosen[cell] = so_far > (1 - share) * whole
    return chosen


def exact_mask_counts(batch):
    return batch.masks.numpy().reshape(len(batch), 14, 4, 14, 4).sum(axis=(2, 4)).reshape(len(batch), -1)


SOURCES = {
    "mask": {"saliency": "mask"},
    "attention": {"saliency": Counting(seed=3)},
    "self": {"saliency": "self"},
    "gradient": {"saliency": "gradient"},
}
DROPS = (SalientPatchDrop, NonsalientPatchDrop, MatchedPatchDrop)


def made(cls, source, *, seed=0, cache_dir=None, **params):
    return prepared(cls(**SOURCES[source], **params), seed=seed, evaluated=Counting(), cache_dir=cache_dir)


# --- which cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenths", TENTHS)
def test_pixels_and_masses_equal_the_loop_over_images_in_fractions(tenths):
    batch, share = batch_of(), Fraction(tenths, 10)
    counts = exact_mask_counts(batch)
    salient = apply(made(SalientPatchDrop, "mask"), batch, tenths / 10)
    rest = apply(made(NonsalientPatchDrop, "mask"), batch, tenths / 10)
    for i, name in enumerate(IDS):
        expected = salient_cells(counts[i], name, share), ~salient_cells(counts[i], name, 1 - share)
        for after, chosen in zip((salient, rest), expected, strict=True):
            assert (cells_dropped(after)[i] == chosen).all()
            whole = int(counts[i].sum())
            assert after.realised["saliency_mass"][i] == float(Fraction(int(counts[i][chosen].sum()), whole))
            assert after.realised["information_loss"][i] == float(Fraction(int(chosen.sum()), 196))
            kept = torch.from_numpy(~np.kron(chosen.reshape(14, 14), np.ones((4, 4), bool)))
            assert torch.equal(after.images[i, :, kept], batch.images[i, :, kept])


@pytest.mark.parametrize("source", SOURCES)
def test_sets_are_complementary_and_nested_and_their_ends_are_nothing_and_everything(source):
    batch = batch_of()
    salient, rest = (made(cls, source) for cls in (SalientPatchDrop, NonsalientPatchDrop))
    states = salient.begin(batch), rest.begin(batch)
    inside = [cells_dropped(salient.apply(batch, states[0], tenths / 10)) for tenths in TENTHS]
    outside = [cells_dropped(rest.apply(batch, states[1], tenths / 10)) for tenths in TENTHS]
    for tenths in TENTHS:
        assert (inside[tenths] == ~outside[10 - tenths]).all()
        masses = salient.apply(batch, states[0], tenths / 10).realised["saliency_mass"]
        assert (masses >= tenths / 10 - 1e-12).all()
        masses = rest.apply(batch, states[1], tenths / 10).realised["saliency_mass"]
        assert (masses <= tenths / 10 + 1e-12).all()
    for sets in (inside, outside):
        assert not sets[0].any()
        assert sets[10].all()
        for lower, higher in pairwise(sets):
            assert (higher | ~lower).all()
            assert higher.sum() > lower.sum()


@pytest.mark.parametrize("source", SOURCES)
def test_masks_follow_from_the_map_that_is_shown(source):
    batch, perturbation = batch_of(), made(SalientPatchDrop, source)
    state = perturbation.begin(batch)
    assert isinstance(perturbation, HasMaps)
    (shown,) = perturbation.maps(state).values()
    assert shown.shape == (len(IDS), 14, 14)
    assert float(shown.min()) >= 0
    np.testing.assert_allclose(shown.sum(dim=(1, 2)), 1)
    dropped = cells_dropped(perturbation.apply(batch, state, 0.5))
    for chosen, mass in zip(dropped, shown.flatten(1).numpy(), strict=True):
        assert mass[chosen].min() >= mass[~chosen].max()
        assert mass[chosen].sum() - mass[chosen].min() < 0.5 <= mass[chosen].sum() + 1e-12


def test_the_authors_axis_counts_what_is_kept():
    batch = batch_of()
    dropped = made(NonsalientPatchDrop, "mask")
    kept = made(NonsalientPatchDrop, "mask", background_axis="kept")
    for tenths in TENTHS:
        assert torch.equal(apply(kept, batch, tenths / 10).images, apply(dropped, batch, 1 - tenths / 10).images)
    assert torch.equal(apply(kept, batch, 1.0).images, batch.images)
    assert not kept.info.level.nested
    assert dropped.info.level.nested


@pytest.mark.parametrize(("of", "other"), [("salient", SalientPatchDrop), ("nonsalient", NonsalientPatchDrop)])
@pytest.mark.parametrize("tenths", TENTHS)
def test_the_control_drops_as_many_cells_and_those_of_random_patchdrop(of, other, tenths):
    batch = batch_of()
    control = apply(made(MatchedPatchDrop, "mask", seed=4, of=of), batch, tenths / 10)
    matched = apply(made(other, "mask"), batch, tenths / 10)
    assert control.realised["information_loss"].tolist() == matched.realised["information_loss"].tolist()
    counts = exact_mask_counts(batch)
    for i, name in enumerate(IDS):
        alone = batch_of([name])
        count = round(float(matched.realised["information_loss"][i]) * 196)
        random = apply(prepared(RandomPatchDrop(), seed=4), alone, count / 196)
        assert torch.equal(control.images[i], random.images[0])
        mass = int(counts[i][cells_dropped(random)[0]].sum())
        assert control.realised["saliency_mass"][i] == float(Fraction(mass, int(counts[i].sum())))


def test_the_control_depends_on_the_seed_and_the_others_do_not():
    batch = batch_of()
    for cls in DROPS:
        masks = [black(apply(made(cls, "mask", seed=seed), batch, 0.5)) for seed in (0, 1)]
        assert torch.equal(*masks) == (cls is not MatchedPatchDrop)


@pytest.mark.parametrize("grid", [(7, 7), (28, 28), (4, 8)])
def test_other_grids_get_the_mass_that_lies_over_their_cells(grid):
    batch = batch_of()
    fine = made(SalientPatchDrop, "attention")
    shown = fine.maps(fine.begin(batch))["saliency"].numpy()
    coarse = made(SalientPatchDrop, "attention", grid=grid)
    found = coarse.maps(coarse.begin(batch))["saliency"].numpy()
    assert found.shape == (len(IDS), *grid)
    # On 56 rows and columns both grids have whole cells: what lies over a cell can be summed there.
    spread = np.kron(shown, np.ones((1, 4, 4))) / 16
    rows, columns = 56 // grid[0], 56 // grid[1]
    sums = spread.reshape(len(IDS), grid[0], rows, grid[1], columns).sum(axis=(2, 4))
    np.testing.assert_allclose(found, sums, atol=1e-12)
    cells_dropped(apply(coarse, batch, 0.5), grid)


def test_other_fills_take_the_place_of_the_same_pixels():
    batch = batch_of()
    blacked = apply(made(SalientPatchDrop, "mask"), batch, 0.5)
    red = apply(made(SalientPatchDrop, "mask", fill="constant", colour=(1, 0, 0)), batch, 0.5)
    where = black(blacked)
    assert torch.equal(red.images.movedim(1, 3)[where].unique(dim=0), torch.tensor([[1.0, 0, 0]]))
    assert torch.equal(red.images.movedim(1, 3)[~where], batch.images.movedim(1, 3)[~where])


# --- one mask per image ------------------------------------------------------------------------------------------


def receipts(perturbation, level, ids, size):
    """A digest of the pixels of each image, asked for in batches of ``size``."""
    found = {}
    for start in range(0, len(ids), size):
        after = apply(perturbation, batch_of(ids[start : start + size]), level)
        for name, image in zip(after.ids, after.images, strict=True):
            found[name] = hashlib.sha256(image.numpy().tobytes()).hexdigest()
    return found


@pytest.mark.parametrize("cls", DROPS)
@pytest.mark.parametrize("source", SOURCES)
def test_an_image_has_one_mask_in_any_batch_order_and_shard(cls, source):
    for level in (0.1, 0.5):
        whole = receipts(made(cls, source), level, IDS, 7)
        assert len(set(whole.values())) == len(IDS)
        for size in (1, 2):
            assert receipts(made(cls, source), level, IDS, size) == whole
        assert receipts(made(cls, source), level, IDS[::-1], 3) == whole
        shards = [receipts(made(cls, source), level, IDS[part::3], 2) for part in range(3)]
        assert {name: seen for shard in shards for name, seen in shard.items()} == whole


@pytest.mark.parametrize("kept_on_disk", [True, False])
def test_the_map_that_is_kept_counts_and_not_one_computed_again(tmp_path, kept_on_disk):
    batch, model = batch_of(), Counting()
    cache = {"cache_dir": tmp_path if kept_on_disk else None}
    perturbation = prepared(SalientPatchDrop(saliency=model), **cache)
    before = apply(perturbation, batch, 0.5)
    # Other weights under the same name: what the model says now is something else.
    with torch.no_grad():
        model.net.blocks[-1].qkv.weight.mul_(-3)
    other = prepared(SalientPatchDrop(saliency=model))
    assert not torch.equal(apply(other, batch, 0.5).images, before.images)
    assert torch.equal(apply(perturbation, batch, 0.5).images, before.images)
    if kept_on_disk:
        again = prepared(SalientPatchDrop(saliency=model), **cache)
        assert torch.equal(apply(again, batch, 0.5).images, before.images)


def sweep(perturbation, sizes=(3, 4)):
    start = 0
    for size in sizes:
        batch = batch_of(IDS[start : start + size])
        state = perturbation.begin(batch)
        for tenths in TENTHS:
            perturbation.apply(batch, state, tenths / 10)
        start += size


@pytest.mark.parametrize("parameter", ["saliency", "gradient_of"])
def test_a_sweep_asks_the_model_once_per_image_and_a_second_run_not_at_all(tmp_path, parameter):
    def fresh(cls, model, seed=0):
        words = {} if parameter == "saliency" else {"saliency": "gradient"}
        return prepared(cls(**words, **{parameter: model}), seed=seed, cache_dir=tmp_path)

    first = Counting()
    sweep(fresh(SalientPatchDrop, first))
    assert first.images == len(IDS)
    for cls in (*DROPS, SalientPatchDrop):
        later = Counting()
        sweep(fresh(cls, later, seed=1), sizes=(5, 2))
        assert later.images == 0
    assert all(path.is_relative_to(tmp_path / "saliency") for path in tmp_path.rglob("*") if path.is_file())


def test_only_images_that_are_missing_are_asked_about(tmp_path):
    model = Counting()
    begun = prepared(SalientPatchDrop(saliency=model), cache_dir=tmp_path)
    begun.begin(batch_of(IDS[1:3]))
    other = prepared(NonsalientPatchDrop(saliency=model), cache_dir=tmp_path)
    assert model.images == 2
    state = other.begin(batch_of())
    assert model.images == len(IDS)
    alone = prepared(NonsalientPatchDrop(saliency=Counting()))
    assert torch.equal(other.maps(state)["saliency"], alone.maps(alone.begin(batch_of()))["saliency"])


def test_masks_at_hand_are_not_stored(tmp_path):
    sweep(made(SalientPatchDrop, "mask", cache_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- the contract ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", DROPS)
def test_descriptors_agree_with_the_perturbations(cls):
    info = cls().info
    (entry,) = (entry for entry in harness_register_perturbations() if entry.name == info.name)
    assert (info.version, info.stage, info.level) == (entry.version, entry.stage, entry.level)
    assert (info.stochastic, info.params) == (entry.stochastic, canonical(entry.params()))
    assert info.stream == ("patchdrop" if cls is MatchedPatchDrop else None)
    assert entry.level.values == tuple(k / 10 for k in range(11))
    assert entry.level.nested
    assert entry.level.identity == (None if cls is NonsalientPatchDrop else 0)
    assert (entry.model_params, entry.model_words) == (("saliency", "gradient_of"), ("mask", "self", "gradient"))
    assert isinstance(cls(), Perturbation)


@pytest.mark.parametrize(
    "name",
    [
        "patchdrop_salient",
        "patchdrop_salient:saliency=mask",
        "patchdrop_salient:saliency=gradient",
        "patchdrop_salient:saliency=gradient:gradient_of=vit_mini",
        "patchdrop_salient:saliency=self",
        "patchdrop_nonsalient",
        "patchdrop_matched:of=nonsalient",
    ],
)
def test_every_promise_of_the_contract_kit_is_kept(name):
    outcomes = check_named(build_catalog(build_manager()), "perturbation", name)
    assert {outcome.check: outcome.message for outcome in outcomes if outcome.status == "failed"} == {}


def test_a_model_of_the_callers_stands_in_the_parameters_by_name_and_weights():
    texts = [
        SalientPatchDrop(saliency=Counting()).info.params["saliency"],
        SalientPatchDrop(saliency=Counting(seed=1)).info.params["saliency"],
        SalientPatchDrop(saliency="gradient", gradient_of=Counting()).info.params["gradient_of"],
    ]
    assert all(re.fullmatch("tiny:[0-9a-f]{16}", text) for text in texts)
    assert texts[0] == texts[2] != texts[1]
    other = Counting()
    other._info = dataclasses.replace(other.info, mean=(0.0, 0.0, 0.0))
    assert SalientPatchDrop(saliency=other).info.params["saliency"] != texts[0]


def test_a_model_of_the_callers_need_not_be_named_to_be_the_one_that_is_asked():
    model, evaluated = Counting(), Counting(seed=5)
    apply(prepared(SalientPatchDrop(saliency=model), evaluated=evaluated), batch_of(), 0.5)
    assert (model.images, evaluated.images) == (len(IDS), 0)
    apply(prepared(SalientPatchDrop(saliency="self"), evaluated=evaluated), batch_of(), 0.5)
    assert evaluated.images == len(IDS)


def predicted(result, record):
    return open_outcomes(result.path, record.key).columns["prediction"].tolist()


def test_a_run_gets_the_model_that_is_named_and_its_weights_stand_in_the_key():
    model = build_model("vit_mini", weights=WeightsChoice(origin="pretrained"))
    result = harness.run(
        model="vit_mini",
        dataset="shapes",
        perturb=[
            "patchdrop_salient@0.5",
            "patchdrop_salient:saliency=vit_mini@0.5",
            "patchdrop_salient:saliency=self@0.5",
            (SalientPatchDrop(saliency=model), [0.5]),
        ],
        probe="head",
        limit=60,
        options=harness.RunOptions(cache_dir=None),
    )
    assert not result.failures
    found = {}
    for record in result.records:
        params = record.cell["components"]["perturbation"]["params"]
        found[params.get("saliency", "clean")] = record
    others = {name: found.pop(name) for name in ("clean", "dino_mini") if name in found}
    assert "dino_mini" in others
    assert len(found) == 3
    # A model asked about itself, by the word, by its name and as an object, gives one and the same map.
    predictions = [predicted(result, record) for record in found.values()]
    assert predictions[0] == predictions[1] == predictions[2]
    assert predictions[0] != predicted(result, others["dino_mini"])
    assert len({record.key for record in (*found.values(), *others.values())}) == len(found) + len(others)


def test_begin_needs_prepare_first():
    with pytest.raises(RuntimeError, match=r"patchdrop_salient.*prepare"):
        SalientPatchDrop(saliency="mask").begin(batch_of())


@pytest.mark.parametrize("level", [-0.1, 1.1, None])
def test_masses_outside_the_range_are_refused(level):
    with pytest.raises(ParameterError, match="mass"):
        apply(made(SalientPatchDrop, "mask"), batch_of(), level)


def test_the_pixels_of_version_1_stay_what_they_are():
    """A change here is a change of numerics: raise ``version`` in the descriptor together with the digest."""
    digest = hashlib.sha256()
    for cls in DROPS:
        after = apply(made(cls, "mask", seed=2), batch_of(), 0.5)
        digest.update((after.images * 255).round().to(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == "43c6613e276ff059fab6a47278a9316b8eaa702c5721adf70def98b4b94e2e08"


def test_one_run_without_a_cache_asks_for_each_map_once(tmp_path):
    """Three variants, eleven levels, two seeds and two models that are evaluated: one map an image all the same."""
    guide = Counting()
    kinds = (SalientPatchDrop, NonsalientPatchDrop, MatchedPatchDrop)
    result = harness.run(
        model=["vit_mini", "cnn_mini"],
        dataset="shapes",
        probe="head",
        perturb=[(kind(saliency=guide), (0.1, 0.5)) for kind in kinds],
        seeds=[0, 1],
        limit=12,
        out=tmp_path / "out",
        options=harness.RunOptions(cache_dir=None),
    )
    assert result.failures == ()
    assert guide.images == 12
