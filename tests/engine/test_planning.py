"""The grid as cells and passes: nothing decoded, nothing built, torch not imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from engine_doubles import models
from engine_doubles.data import CountingDataset
from engine_doubles.models import TinyModel
from engine_doubles.perturbations import Dimmed
from engine_doubles.probes import CentroidProbe, PixelProbe
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.builtin import harness_register_summaries
from harness.errors import CapabilityError, DataError, UsageError, WeightsError
from harness.grid import build_plan
from harness.planning import describe_ref, union
from harness.request import Asked
from harness.types import Capability, OutputSpec, View
from harness.weights import WeightsChoice

WIDE = {
    "model": ["tiny", "elsewhere"],
    "dataset": "tints",
    "probe": ["pixels", "centroid", "agreement"],
    "perturb": ["none", "dimmed", "speckled@0.1"],
    "support_perturb": ["none", "dimmed@0.5"],
    "seeds": (0, 1),
}


def test_every_combination_is_one_cell(bare_plan):
    plan = bare_plan(**WIDE)
    # perturbations: none, three levels of dimmed, speckled at two seeds; two supports for the probe that learns.
    assert len(plan.cells) == 2 * (1 + 2 + 1) * (1 + 3 + 2)
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)
    assert not plan.not_applicable


def test_planning_decodes_and_builds_nothing(bare_plan):
    dataset = CountingDataset()
    plan = bare_plan(**{**WIDE, "dataset": dataset})
    assert [walk.num_images for walk in plan.passes] == [33, 33]
    assert dataset.loaded == []
    assert models.built == []


def test_seeds_are_kept_only_where_something_is_random(bare_plan):
    plan = bare_plan(**WIDE, support_seed=7, probe_seed=8)
    for cell in plan.cells:
        assert (cell.seeds.perturb is None) == (cell.perturbation.use != "speckled")
        assert cell.seeds.support_perturb is None
        assert cell.seeds.probe == (8 if cell.probe.use == "centroid" else None)
    plan = bare_plan(**{**WIDE, "support_perturb": ["holed@0.5"]}, support_seed=7)
    assert {cell.seeds.support_perturb for cell in plan.cells if cell.support} == {7}


def test_asking_twice_is_asking_once(bare_plan):
    once, twice = bare_plan(**WIDE), bare_plan(**{**WIDE, "perturb": [*WIDE["perturb"], "clean", "dimmed@0.25"]})
    assert [cell.key for cell in twice.cells] == [cell.key for cell in once.cells]


def test_cells_come_in_the_order_asked(bare_plan):
    plan = bare_plan(model="tiny", dataset="tints", probe="pixels", perturb=["dimmed@0.5", "none", "dimmed@0.25"])
    assert [(cell.perturbation.name, cell.level) for cell in plan.cells] == [
        ("dimmed", 0.5),
        ("none", None),
        ("dimmed", 0.25),
    ]


def test_a_pass_is_one_model_one_split_one_view(bare_plan):
    plan = bare_plan(**WIDE)
    assert [walk.model.ref.name for walk in plan.passes] == ["tiny", "elsewhere"]
    assert sum(len(walk.cells) for walk in plan.passes) == len(plan.cells)
    apart = bare_plan(model=["tiny", "tiny:net=1"], dataset="tints", probe="pixels")
    assert len(apart.passes) == 2


def test_forwards_are_counted_by_unit_and_level_not_by_probe(bare_plan):
    (walk,) = bare_plan(**{**WIDE, "model": "tiny"}).passes
    # One clean forward (which dimmed@0 shares), two levels of dimmed, two seeds of speckled.
    assert walk.forwards_per_image == 1 + 2 + 2
    (alone,) = bare_plan(model="tiny", dataset="tints", probe="pixels", perturb="dimmed@0.5").passes
    assert alone.forwards_per_image == 1
    (compared,) = bare_plan(model="tiny", dataset="tints", probe="agreement", perturb="dimmed@0.5").passes
    assert compared.forwards_per_image == 2


def test_the_identity_level_is_known(bare_plan):
    (walk,) = bare_plan(model="tiny", dataset="tints", probe="pixels", perturb=["none", "dimmed@0,0.5"]).passes
    assert [cell.is_identity for cell in walk.cells] == [True, True, False]


def test_an_attack_on_the_probe_has_a_unit_per_fitted_probe(bare_plan):
    grid = {"model": "tiny", "dataset": "tints", "probe": ["centroid:shots=1", "centroid:shots=2"]}
    units = {aim: {cell.unit for cell in bare_plan(**grid, perturb=f"signstep:aim={aim}@16").passes[0].cells}
             for aim in ("head", "probe")}  # fmt: skip
    assert (len(units["head"]), len(units["probe"])) == (1, 2)


def test_fits_are_shared_by_levels_and_not_by_supports(bare_plan):
    (walk,) = bare_plan(**{**WIDE, "model": "tiny", "probe": "centroid"}).passes
    assert len({cell.fit_key for cell in walk.cells}) == 2


# --- what a summary asks for


def test_a_sweep_gets_the_clean_cell_that_its_summary_needs(plan):
    sweep = plan(model="tiny", dataset="tints", probe="pixels", perturb="dimmed@0.25,0.5")
    assert [cell.perturbation.name for cell in sweep.cells] == ["none", "dimmed", "dimmed"]
    point = plan(model="tiny", dataset="tints", probe="pixels", perturb="dimmed@0.5")
    assert [cell.perturbation.name for cell in point.cells] == ["dimmed"]
    given = plan(model="tiny", dataset="tints", probe="pixels", perturb=["dimmed@0.25,0.5", "none"])
    assert [cell.perturbation.name for cell in given.cells] == ["dimmed", "dimmed", "none"]


def test_no_summary_no_clean_cell(bench):
    request = Asked(models=("tiny",), datasets=("tints",), probes=("pixels",), perturbations=("dimmed",))
    request = request.resolve(bench.catalog)
    assert len(build_plan(bench.catalog, request).cells) == 3
    assert len(build_plan(bench.catalog, request, summaries=list(harness_register_summaries())).cells) == 4


# --- combinations that make no sense


def test_by_name_they_are_refused(bare_plan):
    with pytest.raises(CapabilityError, match="toy_head reads the model's own head"):
        bare_plan(model="elsewhere", dataset="tints", probe="toy_head")
    with pytest.raises(CapabilityError, match="headless"):
        bare_plan(model="headless", dataset="tints", probe="centroid", perturb="signstep")


def test_from_a_glob_they_become_rows_with_a_reason(bare_plan):
    plan = bare_plan(model=["tiny", "elsew*", "headl*"], dataset="tints", probe=["toy_head", "pixels"])
    refused = {(cell.model.name, cell.probe.name): cell.not_applicable for cell in plan.not_applicable}
    assert set(refused) == {("elsewhere", "toy_head"), ("headless", "toy_head")}
    assert "imagenet1k" in refused["elsewhere", "toy_head"]
    assert "needs logits" in refused["headless", "toy_head"]
    assert len(plan.cells) == 6
    assert sum(len(walk.cells) for walk in plan.passes) == 4


def test_a_model_without_published_weights_is_refused_by_name(bare_plan):
    with pytest.raises(WeightsError, match="unpublished has no pretrained weights: none were published") as caught:
        bare_plan(model="unpublished", dataset="tints", probe="pixels")
    assert "--weights random" in str(caught.value.hint)


def test_from_a_glob_it_becomes_a_row_and_others_go_on(bare_plan):
    plan = bare_plan(model=["tiny", "unpub*"], dataset="tints", probe="pixels")
    assert {cell.model.name: cell.not_applicable is None for cell in plan.cells} == {"tiny": True, "unpublished": False}
    assert "none were published" in plan.not_applicable[0].not_applicable


def test_with_other_weights_it_is_a_model_as_any_other(bare_plan):
    (cell,) = bare_plan(
        model="unpublished", dataset="tints", probe="pixels", weights=WeightsChoice(origin="random")
    ).cells
    assert cell.weights.untrained
    (cell,) = bare_plan(model='unpublished:url="https://example.org/a.pth"', dataset="tints", probe="pixels").cells
    assert cell.weights.identity == "pretrained:https://example.org/a.pth"


def test_a_support_attack_is_judged_as_any_other(bare_plan):
    with pytest.raises(CapabilityError, match="signstep attacks the model's own head"):
        bare_plan(model="elsewhere", dataset="tints", probe="centroid", support_perturb="signstep@16")


def test_a_probe_that_learns_needs_a_support_split(bare_plan):
    from engine_doubles.data import tiny_dataset

    with pytest.raises(CapabilityError, match="probe centroid learns, but dataset tints has no support split"):
        bare_plan(model="tiny", dataset=tiny_dataset(support=0), probe="centroid")
    assert bare_plan(model="tiny", dataset=tiny_dataset(support=0), probe="pixels").passes


def test_a_probe_is_not_asked_about_what_it_learned_from(bare_plan):
    with pytest.raises(CapabilityError, match="the images it learns from") as caught:
        bare_plan(model="tiny", dataset="tints", probe="centroid", split="support")
    assert "query" in caught.value.hint
    assert bare_plan(model="tiny", dataset="tints", probe="pixels", split="support").passes[0].num_images == 18


def test_an_unknown_split_names_those_there_are(bare_plan):
    with pytest.raises(DataError, match="no split 'test'") as caught:
        bare_plan(model="tiny", dataset="tints", probe="pixels", split="test")
    assert "query, support" in caught.value.hint


@pytest.mark.parametrize("axis", ["models", "datasets", "perturbations", "probes"])
def test_an_empty_axis_is_refused(bench, axis):
    import dataclasses

    request = Asked(models=("tiny",), datasets=("tints",), probes=("pixels",)).resolve(bench.catalog)
    with pytest.raises(UsageError, match=f"nothing to run: no {axis[:-1]}"):
        build_plan(bench.catalog, dataclasses.replace(request, **{axis: []}))


# --- instances


def test_two_objects_that_records_cannot_tell_apart_are_refused(bare_plan):
    grid = {"model": "tiny", "dataset": "tints", "probe": "pixels"}
    with pytest.raises(UsageError, match="two different objects both call themselves instance:dimmed"):
        bare_plan(**grid, perturb=[Dimmed(), Dimmed()])
    with pytest.raises(UsageError, match="instance:centroid"):
        bare_plan(**{**grid, "probe": [CentroidProbe(), CentroidProbe()]})
    with pytest.raises(UsageError, match="instance:tiny"):
        bare_plan(**{**grid, "model": [TinyModel(), TinyModel()]})


def test_one_object_twice_and_objects_that_differ_are_fine(bare_plan):
    one = Dimmed()
    grid = {"dataset": "tints", "perturb": [(one, 0.25), (one, 0.5)]}
    probes = [PixelProbe(), CentroidProbe(shots=1), CentroidProbe(shots=2)]
    plan = bare_plan(**grid, model=[TinyModel(seed=0), TinyModel(seed=1)], probe=probes)
    assert len(plan.cells) == 2 * 2 * 3
    assert len(plan.passes) == 2


# --- limits, views, precision


@pytest.mark.parametrize(("limit", "images"), [(None, 33), (6, 6), ("0.5", 16), (1000, 33)])
def test_a_limit_is_counted_recorded_and_part_of_the_key(bare_plan, limit, images):
    grid = {"model": "tiny", "dataset": "tints", "probe": "pixels"}
    plan = bare_plan(**grid, limit=limit)
    (walk,) = plan.passes
    assert walk.num_images == images == len(walk.positions())
    recorded = None if images == 33 else images
    assert walk.limit == plan.cells[0].dataset.limit == plan.cells[0].as_dict()["limit"] == recorded
    assert (plan.cells[0].key == bare_plan(**grid).cells[0].key) == (images == 33)


def test_views(bare_plan):
    grid = {"model": "tiny", "dataset": "tints", "probe": "pixels"}
    assert bare_plan(**grid).cells[0].view == View(crop=16)
    assert bare_plan(**grid, view="crop=8").cells[0].view == View(crop=8)
    assert bare_plan(**grid, view=View(crop=4)).cells[0].view == View(crop=4)
    assert bare_plan(**grid, view="ipvit").cells[0].view.resize == 256


def test_precision_is_part_of_the_key(bare_plan):
    grid = {"model": "tiny", "dataset": "tints", "probe": "pixels"}
    keys = {bare_plan(**grid, precision=precision).cells[0].key for precision in ("fp32", "bf16", "fp16")}
    assert len(keys) == 3


# --- parts of a plan


def _units(plan):
    """Which forward pass answers each cell."""
    return {
        cell.key: (number, ("", None) if cell.is_identity else (cell.unit, cell.cell.level))
        for number, walk in enumerate(plan.passes)
        for cell in walk.cells
    }


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 9))
def test_shards_are_disjoint_whole_and_keep_forwards_together(bench, count):
    request = Asked(
        models=("tiny", "elsew*"),
        datasets=("tints",),
        probes=("pixels", "centroid", "toy_head"),
        perturbations=("none", "dimmed", "speckled"),
        seeds=(0, 1),
    )
    whole = build_plan(bench.catalog, request.resolve(bench.catalog))
    shards = [whole.shard(index, count) for index in range(count)]
    keys = [cell.key for shard in shards for cell in shard.cells]
    assert sorted(keys) == sorted(cell.key for cell in whole.cells)
    assert len(set(keys)) == len(keys)
    for shard in shards:
        assert {cell.key for walk in shard.passes for cell in walk.cells} | {
            cell.key for cell in shard.not_applicable
        } == {cell.key for cell in shard.cells}
    home = {cell.key: index for index, shard in enumerate(shards) for cell in shard.cells}
    shared: dict[object, set[int]] = {}
    for key, unit in _units(whole).items():
        shared.setdefault(unit, set()).add(home[key])
    assert all(len(homes) == 1 for homes in shared.values())
    sizes = [sum(walk.forwards_per_image for walk in shard.passes) for shard in shards]
    assert max(sizes) - min(sizes) <= len(whole.passes)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_shard_that_is_not_there(bare_plan, index, count):
    with pytest.raises(UsageError, match="does not exist"):
        bare_plan(**WIDE).shard(index, count)


def test_what_is_recorded_is_left_out(bare_plan):
    plan = bare_plan(**WIDE)
    done = {cell.key for cell in plan.cells if cell.model.name == "tiny"} | {"unknown"}
    left = plan.without(done)
    assert {cell.key for cell in left.cells} == {cell.key for cell in plan.cells} - done
    assert [walk.model.ref.name for walk in left.passes] == ["elsewhere"]
    assert not plan.without(cell.key for cell in plan.cells).passes


def test_the_plan_as_it_is_written(bare_plan):
    import json

    raw = json.loads(json.dumps(bare_plan(**{**WIDE, "model": "tiny"}, limit=6).as_dict()))
    assert len(raw["cells"]) == 24
    (walk,) = raw["passes"]
    assert (walk["images"], walk["forwards_per_image"], walk["forward_images"], walk["cells"]) == (6, 5, 30, 24)


def test_a_walk_is_another_where_the_images_are(bare_plan):
    grid = {"model": "tiny", "dataset": "tints", "probe": "pixels"}

    def walk(**given):
        return bare_plan(**{**grid, **given}).passes[0].walk_id

    others = [{"limit": 6}, {"view": "crop=8"}, {"precision": "bf16"}, {"model": "tiny:net=1"}, {"split": "support"}]
    ids = {walk(), *(walk(**other) for other in others)}
    assert len(ids) == 1 + len(others)
    assert walk(probe="agreement", perturb="dimmed") == walk()


def test_names_with_their_parameters(bare_plan):
    cell = bare_plan(model="tiny:net=1", dataset="tints", probe="centroid:shots=5").cells[0]
    assert (describe_ref(cell.model), describe_ref(cell.probe)) == ("tiny:net=1", "centroid:shots=5")
    assert describe_ref(cell.perturbation) == "none"


def test_the_union_of_wants():
    wants = [OutputSpec(logits=True), OutputSpec(tokens=frozenset({1})), OutputSpec(tokens=frozenset({2}))]
    assert union(wants) == OutputSpec(logits=True, tokens=frozenset({1, 2}))
    assert union([]) == OutputSpec()
    assert Capability.LOGITS == "logits"


def test_planning_imports_neither_torch_nor_timm():
    code = (
        "import sys, harness; plan = harness.plan(model='resnet18', weights='random', dataset='digits', "
        "perturb=['none', 'patchdrop_random@0.5'], probe='fewshot', limit=20); assert len(plan.cells) == 2; "
        "print([name for name in ('torch', 'timm', 'torchvision') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_models_of_a_plan_include_those_injected_into_perturbations(bare_plan):
    alone = bare_plan(model="tiny", dataset="tints", probe="pixels", perturb=["dimmed", "none"])
    assert [model.ref.name for model in alone.models] == ["tiny"]
    guided = bare_plan(model="tiny", dataset="tints", probe="pixels", perturb=["guided:guide=elsewhere@0.5"])
    assert {model.ref.name for model in guided.models} == {"tiny", "elsewhere"}


def test_a_probe_that_learns_chooses_among_the_classes_it_has_seen(bare_plan):
    dataset = CountingDataset()
    plan = bare_plan(model="tiny", dataset=dataset, probe=["centroid", "pixels"])
    learned = len(set(dataset.index(dataset.info.support_split).labels.tolist()))
    assert {cell.probe.use: cell.dataset.num_classes for cell in plan.cells} == {
        "centroid": learned,
        "pixels": len(dataset.info.classes),
    }
