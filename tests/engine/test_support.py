"""Before the walk: support is chosen, extracted once, cached, and fitted; perturbations are prepared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engine_doubles import models
from engine_doubles.data import CountingDataset
from engine_doubles.models import VIEW, TinyModel, make_tiny
from engine_doubles.perturbations import Dimmed, Greedy, SignStep, Speckled
from engine_doubles.probes import CentroidProbe

from harness.components import perturbation_component
from harness.types import Ids, OutputSpec
from harness.weights import WeightsChoice


@pytest.fixture
def cached(tmp_path):
    return {"cache_dir": tmp_path / "features-here"}


def test_only_what_the_probe_chose_is_decoded_and_forwarded(run, model, dataset):
    probe = CentroidProbe(shots=2)
    result = run(model=model, dataset=dataset, probe=probe, probe_seed=5)
    chosen = CentroidProbe(shots=2).select_support(dataset.index("support").labels, 5).tolist()
    assert len(chosen) == 6
    assert dataset.positions("support") == chosen
    assert dataset.positions("query") == list(range(33))
    assert result.counters.decoded_images == 6 + 33
    assert result.counters.forward_images == 6 + 33
    assert set(probe.selections) == {5}


def test_the_probe_is_fitted_once_on_those_features(run, model, dataset):
    probe = CentroidProbe(shots=2)
    run(model=model, dataset=dataset, probe=probe, perturb=["none", "dimmed", "speckled"], seeds=(0, 1))
    ((ids, x),) = probe.fits
    chosen = probe.select_support(dataset.index("support").labels, 0).tolist()
    assert ids == [f"support-{position:06d}" for position in chosen]
    pixels = dataset.load("support", chosen, VIEW).images
    reference = TinyModel().outputs(pixels, OutputSpec(pooled=True)).pooled
    assert torch.allclose(torch.from_numpy(x), reference, atol=1e-6)


def test_probes_that_read_the_same_images_share_one_extraction(run, model, dataset):
    probes = [CentroidProbe(shots=1), CentroidProbe(shots=4)]
    run(model=model, dataset=dataset, probe=probes)
    once = sorted({position for _, position in dataset.loaded if _ == "support"})
    assert dataset.positions("support") == once
    assert [len(ids) for probe in probes for ids, _ in probe.fits] == [3, 12]


def test_each_support_perturbation_is_extracted_for_itself(run, model, dataset):
    probe = CentroidProbe()
    result = run(model=model, dataset=dataset, probe=probe, support_perturb=["none", "dimmed@0.25,0.5"])
    assert len(result.records) == 3
    assert len(dataset.positions("support")) == 3 * 6
    clean, quarter, half = (x for _, x in probe.fits)
    assert not (clean == quarter).all()
    assert not (quarter == half).all()
    chosen = probe.select_support(dataset.index("support").labels, 0).tolist()
    pixels = dataset.load("support", chosen, VIEW).images
    assert torch.allclose(
        torch.from_numpy(half), TinyModel().outputs(pixels * 0.5, OutputSpec(pooled=True)).pooled, atol=1e-6
    )


def test_a_support_perturbation_that_surrounds_the_model(run, dataset):
    probe = CentroidProbe()
    run(model=TinyModel(), dataset=dataset, probe=probe, support_perturb=["dimmed@0.5", "muffled@0.5"])
    # Muffling the signal by half and dimming the pixels by half are one thing to this model.
    (_, dimmed), (_, muffled) = probe.fits
    assert (dimmed == muffled).all()


# --- the cache


def test_features_are_kept_between_runs(run, dataset, cached):
    first = run(model=TinyModel(), dataset=dataset, probe=CentroidProbe(), out="first", **cached)
    assert first.counters.cached_tables == 0
    dataset.loaded.clear()
    again = run(model=TinyModel(), dataset=dataset, probe=CentroidProbe(), out="second", **cached)
    assert dataset.positions("support") == []
    assert again.counters.cached_tables == 1
    assert again.counters.forward_images == 33
    assert again.records[0].measurements == first.records[0].measurements


def test_another_probe_extracts_only_what_is_new(run, dataset, cached):
    run(model=TinyModel(), dataset=dataset, probe=CentroidProbe(shots=2), out="first", **cached)
    dataset.loaded.clear()
    both = [CentroidProbe(shots=2), CentroidProbe(shots=3)]
    result = run(model=TinyModel(), dataset=dataset, probe=both, out="second", **cached)
    assert result.counters.cached_tables == 1
    assert len(dataset.positions("support")) == 9
    dataset.loaded.clear()
    result = run(model=TinyModel(), dataset=dataset, probe=both, out="third", **cached)
    assert result.counters.cached_tables == 2
    assert dataset.positions("support") == []


@pytest.mark.parametrize(
    "change",
    [
        {"model": TinyModel(seed=1)},
        {"view": "crop=8"},
        {"precision": "bf16"},
        {"support_perturb": "dimmed@0.5"},
        {"probe_seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_upstream_of_a_feature_is_in_its_key(run, dataset, cached, change):
    grid = {"model": TinyModel(), "dataset": dataset, "probe": CentroidProbe(), **cached}
    run(**grid, out="first")
    assert run(**{**grid, **change}, out="second").counters.cached_tables == 0


def test_the_seed_of_a_random_support_perturbation_is_in_the_key(run, dataset, cached):
    probe = CentroidProbe()
    grid = {"model": TinyModel(), "dataset": dataset, "probe": probe, "support_perturb": "speckled@0.3"}
    results = [run(**grid, **cached, support_seed=seed, out=str(i)) for i, seed in enumerate((0, 1, 0))]
    assert [result.counters.cached_tables for result in results] == [0, 0, 1]
    first, other, again = (result.records[0] for result in results)
    assert first.key == again.key != other.key
    one, two, three = (x for _, x in probe.fits)
    assert (one == three).all()
    assert not (one == two).any()


def test_without_a_cache_nothing_is_written(run, dataset, own_cache):
    run(model=TinyModel(), dataset=dataset, probe=CentroidProbe(), cache_dir=None)
    assert not own_cache.exists()


def test_a_damaged_table_is_told_and_takes_no_other_cell_with_it(run, dataset, cached):
    grid = {"model": TinyModel(), "dataset": dataset, **cached}
    run(**grid, probe=CentroidProbe(), out="first")
    (table,) = (cached["cache_dir"] / "features").iterdir()
    (table / "x.float32").write_bytes(b"")
    result = run(**grid, probe=[CentroidProbe(), CentroidProbe(shots=3), "pixels"], out="second")
    assert {record.cell["probe"] for record in result.records} == {"centroid", "pixels"}
    (failure,) = result.failures
    assert "damaged" in failure.message
    assert "--no-cache" in failure.message
    assert (failure.exit_code, failure.trace) == (4, None)


def test_a_table_with_unreadable_images_is_an_error_and_not_kept(run, cached):
    chosen = CentroidProbe().select_support(CountingDataset().index("support").labels, 0).tolist()
    broken = CountingDataset(unreadable=[("support", chosen[1])], skip=True)
    result = run(model=TinyModel(), dataset=broken, probe=[CentroidProbe(), "pixels"], out="first", **cached)
    (failure,) = result.failures
    assert "1 of the 6 support images that probes chose cannot be read" in failure.message
    assert failure.exit_code == 4
    assert [record.cell["probe"] for record in result.records] == ["pixels"]
    repaired = run(model=TinyModel(), dataset=CountingDataset(), probe=CentroidProbe(), out="first", **cached)
    assert (repaired.counters.cached_tables, repaired.failures) == (0, ())


# --- attacks and injected models


def test_an_attack_on_the_head_gets_the_models_scores(run, model, dataset):
    run(model=model, dataset=dataset, probe="toy_head", perturb="signstep@16")
    (step,) = SignStep.prepared
    images = dataset.load("query", range(4), VIEW).images
    expected = TinyModel().outputs(images, OutputSpec(logits=True)).logits["head"]
    assert torch.allclose(step.context.target(images), expected)


def test_a_transfer_attack_is_crafted_on_the_source_and_asked_of_the_other(run, dataset):
    result = run(model=TinyModel(), dataset=dataset, probe="toy_head", perturb="signstep:source=tiny@0,16")
    (step,) = SignStep.prepared
    images = dataset.load("query", range(4), VIEW).images
    source = make_tiny(net=0, weights=WeightsChoice())
    assert torch.allclose(step.context.target(images), source.outputs(images, OutputSpec(logits=True)).logits["head"])
    assert [record.cell["level"] for record in result.records] == [None, 0.0, 16.0]


def test_support_images_come_stratified_where_a_limit_is_given(run, dataset):
    run(model=TinyModel(), dataset=dataset, probe="toy_head", perturb="signstep@16")
    (step,) = SignStep.prepared
    every = [label for batch in step.context.support() for label in batch.labels.tolist()]
    some = [label for batch in step.context.support(6) for label in batch.labels.tolist()]
    assert len(every) == 18
    assert sorted(some) == [0, 0, 1, 1, 2, 2]
    assert len(list(step.context.support(1000))) == len(list(step.context.support()))


def test_an_attack_on_the_probe_gets_the_fitted_probes_scores(run, model, dataset):
    probes = [CentroidProbe(shots=1), CentroidProbe(shots=3)]
    result = run(model=model, dataset=dataset, probe=probes, perturb="signstep:aim=probe@0,16")
    assert len(SignStep.prepared) == 2
    images = dataset.load("query", range(4), VIEW).images
    scores = [step.context.target(images) for step in SignStep.prepared]
    assert not torch.allclose(*scores)
    pooled = TinyModel().outputs(images, OutputSpec(pooled=True)).pooled.double()
    for step, probe in zip(SignStep.prepared, probes, strict=True):
        y = torch.tensor([dataset.index("support").labels[int(name[-6:])] for name in probe.fits[0][0]])
        x = torch.from_numpy(probe.fits[0][1]).double()
        means = torch.stack([x[y == label].mean(dim=0) for label in range(3)])
        assert torch.allclose(step.context.target(images), -torch.cdist(pooled, means))
    # Stepping against a probe hurts that probe at least as much as nothing at all.
    for shots in (1, 3):
        clean, attacked = (
            next(
                r.get("accuracy", shots=shots).value
                for r in result.records
                if r.cell["level"] == level and r.cell["components"]["probe"]["params"]["shots"] == shots
            )
            for level in (0.0, 16.0)
        )
        assert attacked < clean


def test_support_images_attacked_through_the_probe_are_attacked_as_fitted_clean(run, dataset):
    grid = {"model": TinyModel(), "dataset": dataset, "probe": "centroid"}
    run(**grid, support_perturb="signstep:aim=probe@16")
    (step,) = SignStep.prepared
    (probe,) = CentroidProbe.made
    clean, attacked = (x for _, x in probe.fits)
    assert not (clean == attacked).all()
    ids = probe.fits[0][0]
    positions = [int(name[-6:]) for name in ids]
    batch = dataset.load("support", positions, VIEW)
    means = torch.stack([torch.from_numpy(clean)[batch.labels == c].double().mean(dim=0) for c in range(3)])
    pooled = TinyModel().outputs(batch.images, OutputSpec(pooled=True)).pooled.double()
    assert torch.allclose(step.context.target(batch.images), -torch.cdist(pooled, means))
    expected = step.apply(batch, step.begin(batch), 16.0).images
    features = TinyModel().outputs(expected, OutputSpec(pooled=True)).pooled
    assert torch.allclose(torch.from_numpy(attacked), features, atol=1e-6)


def test_the_probes_seed_is_in_the_key_of_support_that_was_attacked_through_it(run, dataset, cached):
    # All six images of each class are chosen with any seed: only the seed itself tells the probes apart.
    grid = {"model": TinyModel(), "dataset": dataset, "probe": "centroid:shots=6", **cached}
    run(**grid, out="clean")
    for seed, extracted in ((0, True), (1, True), (0, False)):
        dataset.loaded.clear()
        run(**grid, support_perturb="signstep:aim=probe@16", probe_seed=seed, out=f"{seed}{extracted}")
        # The probe that is aimed at is fitted on the clean table that is there; the attacked one is each seed's own.
        assert dataset.positions("support") == (list(range(18)) if extracted else [])


def test_an_injected_model_is_built_once_and_named_in_the_key(run, dataset):
    perturbs = ["guided:guide=tiny@0.25,0.5", "guided:guide=headless@0.5"]
    result = run(model="elsewhere", dataset=dataset, probe="pixels", perturb=perturbs, support_perturb="none")
    assert models.built == ["tiny:0:pretrained"]
    assert len({record.key for record in result.records}) == len(result.records) == 3 + 1
    losses = [record.get("information_loss").value for record in result.records if record.cell["level"]]
    assert losses == pytest.approx([0.25, 0.5, 0.5])
    fingerprints = {record.cell["components"]["perturbation"]["fingerprint"] for record in result.records}
    assert len(fingerprints) == 3


def test_perturbations_with_the_same_guide_share_it(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="centroid", perturb="guided@0.5", support_perturb="guided@0.5")
    assert not result.failures
    assert models.built == ["tiny:0:pretrained"]


def test_an_injected_models_weights_change_the_key(bench):
    ref = perturbation_component(bench.catalog, "guided").ref
    guide, weights = ref.injected["guide"]
    assert replace(ref, injected={"guide": (guide, weights)}).fingerprint == ref.fingerprint
    assert replace(ref, injected={"guide": (guide, "sha256:other")}).fingerprint != ref.fingerprint


# --- what a perturbation is told


def test_the_context_of_a_perturbation(run, model, dataset, tmp_path):
    perturbation = Speckled()
    run(model=model, dataset=dataset, probe="pixels", perturb=(perturbation, 0.1), seeds=(3, 4), cache_dir=tmp_path)
    assert [context.seed for context in perturbation.contexts] == [3, 4]
    context = perturbation.contexts[0]
    assert context.view == VIEW
    assert context.device.type == "cpu"
    assert context.dataset_fingerprint == dataset.info.fingerprint
    assert (context.num_classes, context.target, dict(context.models)) == (3, None, {})
    assert context.cache_dir == tmp_path
    batches = [list(context.support()) for _ in range(2)]
    for found in batches:
        assert [int(p) for batch in found for p in batch.positions] == list(range(18))


def test_no_support_split_no_support(run, model):
    from engine_doubles.data import tiny_dataset

    perturbation = Dimmed()
    run(model=model, dataset=tiny_dataset(support=0), probe="pixels", perturb=(perturbation, 0.5))
    assert perturbation.contexts[0].support is None


# --- honesty


def test_support_and_query_share_no_image(run, model):
    index = CountingDataset().index("query")
    shared = Ids([index.ids[4], *(f"support-{i:06d}" for i in range(1, 18))])
    leaky = CountingDataset(ids={"support": shared})
    result = run(model=model, dataset=leaky, probe=[CentroidProbe(shots=6), "pixels"])
    (failure,) = result.failures
    assert "query-000004" in failure.message
    assert "split 'query'" in failure.message
    assert "split 'support'" in failure.message
    assert failure.exit_code == 4
    assert leaky.positions("support") == []
    assert [record.cell["probe"] for record in result.records] == ["pixels"]


def test_out_of_memory_in_extraction_halves_and_goes_on(run, dataset):
    small, large = TinyModel(memory_images=2), TinyModel()
    probes = [CentroidProbe(), CentroidProbe()]
    first = run(model=small, dataset=dataset, probe=probes[0], out="small")
    second = run(model=large, dataset=dataset, probe=probes[1], out="large")
    assert first.records[0].measurements == second.records[0].measurements
    assert (probes[0].fits[0][1] == probes[1].fits[0][1]).all()
    assert max(small.metric_calls) == 2


def test_support_that_never_fits_leaves_the_batch_size_to_the_others(run, model, dataset):
    result = run(model=model, dataset=dataset, probe=["centroid", "pixels"], support_perturb=Greedy())
    assert len(result.failures) == 3
    assert all("out of memory" in failure.message for failure in result.failures)
    assert [record.cell["probe"] for record in result.records] == ["pixels"]
    assert max(model.metric_calls) == 8
