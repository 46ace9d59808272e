"""The only evaluation loop: what is shared, what is isolated, and what must not change a pixel or a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_doubles.data import CountingDataset
from engine_doubles.models import TinyModel
from engine_doubles.perturbations import BreaksAt, Dimmed, Greedy, Muffled, Unprepared
from engine_doubles.probes import AgreementProbe, BreakingProbe, CentroidProbe, DeepProbe, PickyProbe, PixelProbe

from harness.cell_run import CellRun
from harness.errors import CapabilityError, DataError
from harness.forward import Counters, Forward
from harness.loader import BatchSize
from harness.progress import NoProgress
from harness.support import Preparation
from harness.walk import Walk

KEYED = ["none", "dimmed@0.5", "holed@0.5", "speckled@0.3", "muffled@0.5", "guided@0.25"]


def walk_over(walk, positions, *, batch_size=8, workers=0):
    """A walk of a planned pass over some positions, as the engine makes it."""
    forward = Forward(device=torch.device("cpu"), precision=walk.precision, counters=Counters())
    size = BatchSize(batch_size)
    preparation = Preparation(
        walk=walk,
        model=walk.model.build(),
        forward=forward,
        batch_size=size,
        workers=workers,
        cache=None,
        cache_dir=None,
        progress=NoProgress(),
    )
    loop = Walk(preparation=preparation, forward=forward, batch_size=size, progress=NoProgress())
    loop.prepare(list(walk.cells), {})
    loop.run(np.array(positions, dtype=np.int64), workers=workers)
    return loop


# --- one decode, one forward, many probes


def test_one_decode_an_image_and_one_forward_a_level_however_many_probes(run, model, dataset):
    probes = [PixelProbe(), "toy_head", AgreementProbe(), CentroidProbe(), CentroidProbe(shots=3)]
    result = run(model=model, dataset=dataset, probe=probes, perturb=["none", "dimmed", "speckled"], seeds=(0, 1))
    # Levels: clean (and dimmed@0), dimmed at 2, speckled at 2 levels and 2 seeds.
    assert len(result.records) == 5 * (1 + 3 + 4)
    assert dataset.positions("query") == list(range(33))
    union = len(set(dataset.positions("support")))
    assert sorted(dataset.positions("support")) == sorted(set(dataset.positions("support")))
    assert sum(model.metric_calls) == 33 * (1 + 2 + 4) + union
    assert result.counters.forward_images == sum(model.metric_calls)
    assert result.counters.forward_passes == len(model.metric_calls) == 5 * 7 + -(-union // 8)
    assert result.counters.decoded_images == len(dataset.loaded)


def test_a_forward_asks_for_what_its_probes_want_together(run, model, dataset):
    run(model=model, dataset=dataset, probe=["toy_head"], out="one")
    assert {(want.logits, want.pooled) for want in model.wants} == {(True, False)}
    model.wants.clear()
    run(model=model, dataset=dataset, probe=["toy_head", "pixels"], out="two")
    assert {(want.logits, want.pooled) for want in model.wants} == {(True, True)}


def test_the_level_that_changes_nothing_is_answered_from_the_clean_forward(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="toy_head", perturb=["none", (Dimmed(), [0.0, 0.5])])
    assert sum(model.metric_calls) == 2 * 33
    clean, untouched, half = (record.get("accuracy") for record in result.records)
    assert untouched == clean
    assert half.n == 33
    assert [record.get("information_loss").value for record in result.records[1:]] == [0.0, 0.5]


def test_the_level_that_changes_nothing_needs_no_clean_cell(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="pixels", perturb=(Dimmed(), [0.0]))
    assert len(result.records) == 1
    assert sum(model.metric_calls) == 33


def test_nobody_who_asks_for_the_clean_pass_no_clean_forward(run, model, dataset):
    run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb="dimmed@0.5")
    assert sum(model.metric_calls) == 33


def test_the_clean_forward_gives_what_those_who_look_at_it_want(run, model, dataset):
    run(model=model, dataset=dataset, probe="toy_head", perturb="none", out="one")
    model.wants.clear()
    run(model=model, dataset=dataset, probe=["toy_head", "agreement"], perturb="dimmed@0.5", out="two", batch_size=33)
    clean, dimmed = model.wants
    assert (clean.logits, clean.pooled) == (False, True)
    assert (dimmed.logits, dimmed.pooled) == (True, True)


def test_a_perturbation_is_prepared_once_and_begins_once_a_batch(run, model, dataset):
    dimmed = Dimmed()
    run(model=model, dataset=dataset, probe=["pixels", "agreement"], perturb=[(dimmed, [0.25, 0.5])])
    assert (len(dimmed.contexts), len(dimmed.begun), len(dimmed.applied)) == (1, 5, 10)


def test_a_comparing_probe_sees_the_clean_outputs_of_the_same_images(run, dataset):
    result = run(
        model=TinyModel(), dataset=dataset, probe="agreement", perturb=["none", "muffled@0,0.5", "speckled@0.3"]
    )
    values = {(r.cell["perturbation"], r.cell["level"]): r.get("accuracy").value for r in result.records}
    assert values["none", None] == values["muffled", 0.0] == 1.0
    assert values["speckled", 0.3] < 1.0


def test_a_model_stage_perturbation_surrounds_the_forward(run, dataset, outcomes):
    result = run(
        model=TinyModel(), dataset=dataset, probe=["pixels", "toy_head"], perturb=["dimmed@0.5", "muffled@0.5"]
    )
    by = {(r.cell["perturbation"], r.cell["probe"]): r for r in result.records}
    # The network gets the same; the pixels that are shown stay as they were.
    heads = [outcomes(result, by[name, "toy_head"])["prediction"] for name in ("dimmed", "muffled")]
    assert heads[0] == heads[1]
    pixels = [outcomes(result, by[name, "pixels"])["digest"] for name in ("dimmed", "muffled")]
    assert all(one != other for one, other in zip(*pixels, strict=True))
    assert by["muffled", "pixels"].get("muffled").value == 0.5


# --- pixels and numbers do not depend on how


@pytest.fixture(scope="module")
def reference():
    return {}


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batch_size_and_workers_change_neither_pixels_nor_numbers(
    run, dataset, outcomes, numbers, reference, batch_size, workers
):
    result = run(
        model=TinyModel(),
        dataset=dataset,
        probe=["pixels", "agreement", "centroid"],
        perturb=KEYED,
        support_perturb=["none", "speckled@0.3"],
        batch_size=batch_size,
        workers=workers,
        seeds=(0, 1),
    )
    assert not result.failures
    found = (numbers(result), {record.key: outcomes(result, record) for record in result.records})
    assert len(found[0]) == (2 + 2) * (6 + 2)
    assert found == reference.setdefault("first", found)


def test_the_reference_really_differs_between_perturbations(run, dataset, outcomes):
    perturb = ["none", "dimmed@0.5", "holed@0.5", "speckled", "guided@0.25"]
    result = run(model=TinyModel(), dataset=dataset, probe="pixels", perturb=perturb, seeds=(0, 1))
    digests = [tuple(outcomes(result, record)["digest"]) for record in result.records]
    assert len(result.records) == 1 + 1 + 2 + 4 + 1
    assert len({digest for row in digests for digest in row}) == 33 * len(digests)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shuffled_order_and_merged_shards_give_the_same(bare_plan, dataset, shards):
    (walk,) = bare_plan(
        model=TinyModel(), dataset=dataset, probe=["pixels", "toy_head", "centroid"], perturb=KEYED, seeds=(0, 1)
    ).passes
    whole = walk_over(walk, range(33))
    order = np.random.default_rng(shards).permutation(33)
    parts = [walk_over(walk, part, batch_size=5) for part in np.array_split(order, shards)]
    assert not whole.failures
    for key, run in whole.runs.items():
        merged = CellRun(whole.live[key].fitted)
        for part in reversed(parts):
            merged.merge(part.runs[key])
        assert merged.result() == run.result()
        table, again = run.probe.outcomes(), merged.probe.outcomes()
        assert table.positions.tolist() == again.positions.tolist() == list(range(33))
        assert all((table.columns[name] == again.columns[name]).all() for name in table.columns)
        realised = run.realised()
        assert {name: v.tolist() for name, v in merged.realised().items()} == {
            name: v.tolist() for name, v in realised.items()
        }


def test_models_with_equal_views_see_the_same_pixels(run, dataset):
    models = [TinyModel("one", seed=0), TinyModel("two", seed=1)]
    run(model=models, dataset=dataset, probe="toy_head", perturb=["none", "holed@0.5", "speckled@0.3"], batch_size=33)
    one, two = (torch.cat(model.seen) for model in models)
    assert one.shape == (3 * 33, 3, 16, 16)
    assert torch.equal(one, two)


def test_seeds_are_records_of_their_own_and_each_repeats_itself(run, dataset, outcomes):
    grid = {"model": TinyModel(), "dataset": dataset, "probe": "pixels", "perturb": "speckled@0.3"}
    first = run(**grid, seeds=(0, 1), out="first")
    again = run(**grid, seeds=(1, 0), out="again")
    digests = {r.cell["seeds"]["perturb"]: outcomes(first, r)["digest"] for r in first.records}
    assert set(digests) == {0, 1}
    assert not set(digests[0]) & set(digests[1])
    assert {r.cell["seeds"]["perturb"]: outcomes(again, r)["digest"] for r in again.records} == digests
    assert {r.key for r in first.records} == {r.key for r in again.records}


def test_a_limit_walks_its_images_and_their_pixels_are_those_of_the_whole(run, dataset, outcomes):
    grid = {"model": TinyModel(), "dataset": dataset, "probe": "pixels", "perturb": "speckled@0.3"}
    whole, part = run(**grid, out="whole"), run(**grid, limit=9, out="part")
    dataset.loaded.clear()
    run(**grid, limit=9, out="again")
    few, all_ = outcomes(part, part.records[0]), outcomes(whole, whole.records[0])
    assert dataset.positions("query") == few["position"]
    labels = dataset.index("query").labels[few["position"]].tolist()
    assert [labels.count(c) for c in range(3)] == [3, 3, 3]
    assert few["digest"] == [all_["digest"][position] for position in few["position"]]
    assert part.records[0].cell["limit"] == 9
    assert part.records[0].key != whole.records[0].key


# --- the third axis


def test_every_support_meets_every_query(run, dataset, outcomes):
    levels = ["none", "dimmed@0.5", "holed@0.5"]
    probe = CentroidProbe()
    result = run(model=TinyModel(), dataset=dataset, probe=probe, perturb=levels, support_perturb=levels)
    grid = {(r.cell["support"]["perturbation"], r.cell["perturbation"]): r for r in result.records}
    assert len(grid) == len(result.records) == 9
    assert len(probe.fits) == 3
    fitted = [tuple(outcomes(result, grid[support, "none"])["prediction"]) for support in ("none", "dimmed", "holed")]
    assert len(set(fitted)) > 1
    assert all(r.cell["support"]["split"] == "support" for r in result.records)


# --- isolation


def test_a_probe_that_raises_takes_its_own_cells_alone(run, model, dataset, numbers):
    grid = {"model": model, "dataset": dataset, "perturb": ["none", "dimmed@0.5"]}
    alone = numbers(run(**grid, probe=["toy_head"], out="alone"))
    probe = BreakingProbe(KeyError("shape"), position=20)
    result = run(**grid, probe=[probe, "toy_head"], out="together")
    assert numbers(result) == alone
    assert [failure.cell for failure in result.failures] == [
        "tiny / tints/query / none / breaking",
        "tiny / tints/query / dimmed@0.5 / breaking",
    ]
    assert result.exit_code == 1
    assert all("KeyError" in f.message and "Traceback" in f.trace and "probes.py" in f.trace for f in result.failures)


def test_a_persons_mistake_in_a_probe_shows_no_traceback(run, model, dataset):
    probe = BreakingProbe(DataError("image query-000003 is of no class", hint="repair it"), position=3)
    result = run(model=model, dataset=dataset, probe=[probe, "pixels"])
    (failure,) = result.failures
    assert (failure.trace, failure.exit_code) == (None, 4)
    assert failure.message == "image query-000003 is of no class\n  hint: repair it"
    assert [record.cell["probe"] for record in result.records] == ["pixels"]


def test_a_level_that_raises_takes_itself_alone(run, model, dataset):
    broken = BreaksAt(0.5)
    result = run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb=["none", (broken, [0.25, 0.5])])
    assert {(f.cell, f.exit_code) for f in result.failures} == {
        (f"tiny / tints/query / breaks_at@0.5 / {probe}", 1) for probe in ("pixels", "toy_head")
    }
    assert {(r.cell["perturbation"], r.cell["level"]) for r in result.records} == {("none", None), ("breaks_at", 0.25)}
    assert all(record.measurements[0].n == 33 for record in result.records)
    # Once it has failed it is not tried again.
    assert sum(model.metric_calls) == 33 * 2


def test_a_perturbation_that_cannot_be_prepared_is_tried_once(run, model, dataset):
    result = run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb=["none", Unprepared()])
    assert Unprepared.tried == 1
    assert len(result.failures) == 2 * 3
    assert len({failure.trace for failure in result.failures}) == 1
    assert len(result.records) == 2


@pytest.mark.parametrize(
    ("probe", "message"),
    [(PickyProbe, "class star has 6 images, 7 are needed"), (DeepProbe, "gives no tokens")],
)
def test_a_probe_that_cannot_be_prepared_leaves_the_others_alone(run, model, dataset, probe, message):
    good = CentroidProbe()
    result = run(model=model, dataset=dataset, probe=[probe(), good, "pixels"], perturb=["none", "dimmed@0.5"])
    assert len(result.failures) == 2
    assert all(message in failure.message and failure.trace is None for failure in result.failures)
    assert {record.cell["probe"] for record in result.records} == {"centroid", "pixels"}
    assert len(good.fits) == 1


def test_a_support_perturbation_that_raises_takes_the_cells_fitted_on_it_alone(run, model, dataset):
    supports = ["none", (BreaksAt(0.0, CapabilityError("grey images have no hue")), 0.5)]
    result = run(model=model, dataset=dataset, probe=["centroid", "pixels"], support_perturb=supports)
    (failure,) = result.failures
    assert failure.cell == "tiny / tints/query / none / centroid / support breaks_at@0.5"
    assert failure.message == "grey images have no hue"
    assert [(r.cell["probe"], (r.cell["support"] or {}).get("perturbation")) for r in result.records] == [
        ("centroid", "none"),
        ("pixels", None),
    ]


def test_when_nothing_is_left_nothing_more_is_decoded(run, model):
    dataset = CountingDataset()
    run(model=model, dataset=dataset, probe=BreakingProbe(ValueError("no")), out="one")
    assert len(dataset.positions("query")) == 8
    dataset.loaded.clear()
    run(model=model, dataset=dataset, probe=DeepProbe(), out="two")
    assert dataset.loaded == []


# --- unreadable images


def test_an_unreadable_image_is_named(run, model):
    result = run(model=model, dataset=CountingDataset(unreadable=[("query", 12)]), probe=["pixels", "toy_head"])
    assert not result.records
    assert [failure.message for failure in result.failures] == ["cannot decode query-000012"] * 2
    assert {(failure.exit_code, failure.trace) for failure in result.failures} == {(4, None)}


def test_skipped_images_are_counted_in_every_record(run, model, outcomes):
    dataset = CountingDataset(unreadable=[("query", 12), ("query", 30)], skip=True)
    result = run(model=model, dataset=dataset, probe=["pixels", "toy_head"], perturb=["none", "dimmed@0.5"])
    assert len(result.records) == 4
    for record in result.records:
        skipped = record.get("skipped_images")
        assert (skipped.value, skipped.n, skipped.unit) == (2, 33, "images")
        assert record.measurements[0].n == 31
        assert sorted({12, 30} ^ set(outcomes(result, record)["position"])) == list(range(33))
    assert result.counters.skipped_images == 2
    whole = run(model=model, dataset=CountingDataset(), probe="pixels", out="whole").records[0]
    assert "skipped_images" not in {row.metric for row in whole.measurements}


def test_a_split_of_which_nothing_can_be_read_is_no_record(run, model):
    dataset = CountingDataset(unreadable=[("query", position) for position in range(33)], skip=True)
    result = run(model=model, dataset=dataset, probe="pixels")
    assert not result.records
    assert result.failures[0].message == "not one image could be read"


# --- memory


@pytest.mark.parametrize("memory", [1, 3, 5])
def test_out_of_memory_halves_the_batch_and_changes_no_number(run, dataset, numbers, memory):
    grid = {"dataset": dataset, "probe": ["pixels", "toy_head", "centroid"], "perturb": ["none", "speckled"]}
    plenty, little = TinyModel(), TinyModel(memory_images=memory)
    expected = numbers(run(model=plenty, **grid, batch_size=32, out="plenty"))
    result = run(model=little, **grid, batch_size=32, out="little")
    assert numbers(result) == expected
    assert not result.failures
    largest = max(little.metric_calls)
    assert memory / 2 <= largest <= memory
    assert result.records[0].environment["batch_size"] == largest


def test_a_perturbation_may_be_what_needs_the_memory(run, model, dataset, numbers):
    grid = {"model": model, "dataset": dataset, "probe": "pixels", "batch_size": 32}
    expected = numbers(run(**grid, perturb=["none", (Greedy(100), 0.5)], out="plenty"))
    assert numbers(run(**grid, perturb=["none", (Greedy(3), 0.5)], out="little")) == expected


def test_what_does_not_fit_even_alone_fails_and_the_others_go_on_as_before(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="pixels", perturb=["none", (Greedy(0), 0.5)], batch_size=16)
    (failure,) = result.failures
    assert failure.cell == "tiny / tints/query / greedy@0.5 / pixels"
    assert failure.message.startswith("out of memory, with one image at a time too: CUDA out of memory")
    assert "\n" not in failure.message
    assert failure.trace is None
    (record,) = result.records
    assert (record.cell["perturbation"], record.measurements[0].n) == ("none", 33)
    # The second and third batch are whole again.
    assert model.metric_calls[-2:] == [16, 1]


def test_a_model_that_does_not_fit_fails_with_all_its_cells_and_no_other_models(run, dataset):
    models = [TinyModel("huge", memory_images=0), TinyModel("small", seed=1)]
    result = run(model=models, dataset=dataset, probe=["pixels", "toy_head"])
    assert {failure.cell.split(" / ")[0] for failure in result.failures} == {"huge"}
    assert {record.cell["model"] for record in result.records} == {"small"}
    assert all("out of memory" in failure.message and failure.trace is None for failure in result.failures)


# --- precision


def test_bf16_runs_and_is_recorded(run, dataset):
    model = TinyModel()
    grid = {"model": model, "dataset": dataset, "perturb": "dimmed@0.5"}
    result = run(**grid, probe=["toy_head", "centroid"], precision="bf16")
    assert not result.failures
    assert {record.cell["precision"] for record in result.records} == {"bf16"}
    assert set(model.autocast) == {torch.bfloat16}
    assert (
        result.records[0].key
        != run(model=model, dataset=dataset, probe="toy_head", perturb="dimmed@0.5").records[0].key
    )


def test_attacks_take_their_gradients_outside_of_inference_mode(run, dataset):
    model = TinyModel()
    result = run(model=model, dataset=dataset, probe="toy_head", perturb="signstep")
    assert sum(images for images, metric in model.calls if not metric) == 33
    clean, attacked = (next(r for r in result.records if r.cell["level"] == level) for level in (0.0, 16.0))
    assert attacked.get("accuracy").value < clean.get("accuracy").value


def test_a_muffled_identity_is_the_clean_pass(run, model, dataset):
    result = run(model=model, dataset=dataset, probe="toy_head", perturb=["none", (Muffled(), 0.0)])
    assert sum(model.metric_calls) == 33
    assert result.records[0].get("accuracy") == result.records[1].get("accuracy")
