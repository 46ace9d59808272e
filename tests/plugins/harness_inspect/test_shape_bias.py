"""Shape bias of classifiers: decisions against slow loops over probabilities, and what is kept, drawn and written."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
import torch

from harness.decision_files import COLUMNS, read_decisions, written_classes
from harness.entries import ProbeEntry
from harness.errors import CapabilityError, DataError, ParameterError
from harness.exhibits import Finding
from harness.label_maps import LabelMap, find_label_map
from harness.protocols import ProbeContext
from harness.testing.sample import sample_batch, tiny_model, without
from harness.types import Capability, ImageBatch, ModelOutputs, ResultRecord
from harness_inspect.inspection import POSITIONS, SHOWN
from harness_inspect.shape_bias import harness_register_probes
from harness_inspect.shape_bias_exhibit import exhibit
from harness_inspect.shape_bias_probe import IMAGES, ShapeBiasProbe, aggregated, class_names

CLASSES = ("ant", "bee", "cat", "dog")
PAIRS = LabelMap(name="pairs", source="six", target="three", source_classes=6, groups=((4,), (0, 2, 5), (1, 3)))


def card(**changes):
    return dataclasses.replace(tiny_model(classes=4).info, **changes)


def context(model=None, *, classes=CLASSES, label_space="sample"):
    return ProbeContext(model=model or card(), classes=classes, label_space=label_space, seed=0)


def fitted(model=None, *, classes=CLASSES, label_space="sample", **params):
    probe = ShapeBiasProbe(**params)
    model = model or card()
    probe.wants(model)
    return probe.fit(None, context(model, classes=classes, label_space=label_space))


def batch_of(shape, texture, *, start=0, **columns) -> ImageBatch:
    plain = sample_batch(list(np.maximum(shape, 0)), side_px=32, start=start)
    given = {"shape": shape, "texture": texture, **columns}
    return dataclasses.replace(
        plain, columns={name: torch.tensor(values, dtype=torch.int64) for name, values in given.items()}
    )


def naming(named, classes=4):
    """Logits whose highest is the class named."""
    return 3 * torch.nn.functional.one_hot(torch.tensor(named), classes).float()


def answered(shape, texture, named, **params):
    found = fitted(**params).start()
    found.update(batch_of(shape, texture), ModelOutputs(logits={"head": naming(named)}), None)
    return found


SHAPE = [0, 0, 0, 1, 1, 2, 3, 3]
TEXTURE = [1, 1, 2, 0, 2, 0, 3, -1]
NAMED = [0, 1, 0, 0, 3, 3, 3, 3]


# --- decisions -------------------------------------------------------------------------------------------------


def test_numbers_and_outcomes_of_known_decisions():
    run = answered(SHAPE, TEXTURE, NAMED)
    rows = {(row.metric, row.dims.get("class")): row for row in run.result()}
    assert rows["shape_bias", None].value == pytest.approx(2 / 4)
    assert rows["shape_bias_class_mean", None].value == pytest.approx((2 / 3 + 0) / 2)
    assert rows["coverage", None].value == pytest.approx(4 / 6)
    assert rows["agreeing_images", None].value == 1
    assert {name for metric, name in rows if metric == "shape_bias_of_class"} == {"ant", "bee"}
    found = run.outcomes()
    assert found.variants == ({},)
    column = {name: values[0].tolist() for name, values in found.columns.items()}
    assert column["prediction"] == NAMED
    assert column["correct"] == [named == label for named, label in zip(NAMED, SHAPE, strict=True)]
    assert column["by_texture"] == [False, True, False, True, *[False] * 4]
    assert [None if math.isnan(value) else value for value in column["shape_bias"]] == [1, 0, 1, 0, *[None] * 4]
    assert (column["shape"], column["texture"]) == (SHAPE, TEXTURE)
    assert found.columns["prediction"].dtype == np.int32


def test_nothing_decided_leaves_the_ratio_out():
    metrics = [row.metric for row in answered([0, 1], [1, 0], [2, 3]).result()]
    assert "shape_bias" not in metrics
    assert metrics[0] == "coverage"


@pytest.mark.parametrize("half", [torch.float32, torch.float16, torch.bfloat16])
def test_groups_count_by_sum_maximum_or_mean(half):
    logits = (4 * torch.randn(200, 6, generator=torch.Generator().manual_seed(1))).to(half)
    rows = [[math.exp(value) for value in row] for row in logits.double().tolist()]
    expected = {
        "sum": [[sum(row[i] for i in group) for group in PAIRS.groups] for row in rows],
        "max": [[max(row[i] for i in group) for group in PAIRS.groups] for row in rows],
        "mean": [[sum(row[i] for i in group) / len(group) for group in PAIRS.groups] for row in rows],
    }
    named = {}
    for aggregate, values in expected.items():
        scores = aggregated(PAIRS, logits, aggregate)
        normed = [[value / sum(row) for value in groups] for groups, row in zip(values, rows, strict=True)]
        assert np.allclose(scores.double().exp().numpy(), normed, rtol=1e-4)
        named[aggregate] = scores.argmax(dim=1).tolist()
        assert named[aggregate] == np.argmax(values, axis=1).tolist()
    assert named["sum"] != named["mean"] != named["max"]


@pytest.mark.parametrize("aggregate", ["mean", "sum", "max"])
def test_an_imagenet_head_is_read_in_the_16_categories(aggregate):
    label_map = find_label_map("imagenet1k", "imagenet16")
    model = card(label_space="imagenet1k", num_classes=1000)
    probe = fitted(model, classes=label_map.classes, label_space="imagenet16", aggregate=aggregate)
    logits = 3 * torch.randn(64, 1000, generator=torch.Generator().manual_seed(2))
    shape, texture = np.arange(64) % 16, (np.arange(64) + 5) % 16
    run = probe.start()
    run.update(batch_of(shape.tolist(), texture.tolist()), ModelOutputs(logits={"head": logits}), None)
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    slow = []
    for row in probabilities:
        members = [[row[i] for i in group] for group in label_map.groups]
        reduce = {"mean": lambda m: sum(m) / len(m), "sum": sum, "max": max}[aggregate]
        slow.append(int(np.argmax([reduce(m) for m in members])))
    assert run.outcomes().columns["prediction"][0].tolist() == slow
    scores = probe.scores(ModelOutputs(logits={"head": logits}))
    assert scores.argmax(dim=1).tolist() == slow


# --- heads -----------------------------------------------------------------------------------------------------


def distilled():
    return card(heads=("average", "cls", "shape"))


def test_every_head_is_a_variant_the_default_first():
    run = fitted(distilled()).start()
    logits = {"average": naming([0, 0]), "cls": naming([1, 1]), "shape": naming([0, 1])}
    run.update(batch_of([0, 0], [1, 1]), ModelOutputs(logits=logits), None)
    bias = {row.dims["head"]: row.value for row in run.result() if row.metric == "shape_bias"}
    assert bias == {"average": 1, "cls": 0, "shape": 0.5}
    assert list(bias) == ["average", "cls", "shape"]


def test_one_head_of_several():
    run = fitted(distilled(), head="cls").start()
    run.update(batch_of([0], [1]), ModelOutputs(logits={"cls": naming([1])}), None)
    assert run.outcomes().variants == ({"head": "cls"},)


# --- refusals --------------------------------------------------------------------------------------------------


def test_models_that_name_no_class():
    with pytest.raises(CapabilityError, match="has no classifier"):
        ShapeBiasProbe().wants(without(card(), frozenset({Capability.LOGITS})))
    with pytest.raises(CapabilityError, match="no head named 'clss'") as caught:
        ShapeBiasProbe(head="clss").wants(distilled())
    assert "cls" in caught.value.hint


def test_heads_that_score_other_classes():
    with pytest.raises(CapabilityError, match="the dataset's are those of shapes"):
        fitted(label_space="shapes")
    with pytest.raises(CapabilityError, match="scores 4 classes of sample, the dataset has 3"):
        fitted(classes=CLASSES[:3])
    classes = find_label_map("imagenet1k", "imagenet16").classes
    with pytest.raises(CapabilityError, match="in another order"):
        fitted(card(label_space="imagenet1k", num_classes=1000), classes=classes[::-1], label_space="imagenet16")


@pytest.mark.parametrize("aggregate", ["sum", "max"])
def test_an_aggregate_without_effect_is_refused(aggregate):
    with pytest.raises(CapabilityError, match=f"aggregate={aggregate} has no effect"):
        fitted(aggregate=aggregate)
    with pytest.raises(ParameterError, match="aggregate cannot be 'median'"):
        ShapeBiasProbe(aggregate="median")


@pytest.mark.parametrize("missing", ["shape", "texture"])
def test_images_without_cues(missing):
    batch = batch_of([0], [1])
    batch = dataclasses.replace(batch, columns={k: v for k, v in batch.columns.items() if k != missing})
    with pytest.raises(DataError, match=f"do not say whose {missing} they show; they have ") as caught:
        fitted().start().update(batch, ModelOutputs(logits={"head": naming([0])}), None)
    assert "shapes_cue_conflict" in caught.value.hint


@pytest.mark.parametrize("number", [-2, 4])
def test_cues_outside_the_classes(number):
    with pytest.raises(DataError, match=rf"column texture of sample/0001\.png is {number}"):
        answered([0, 0], [1, number], [0, 0])


def test_logits_that_are_not_finite():
    logits = naming([0, 1])
    logits[1, 2] = float("nan")
    with pytest.raises(DataError, match="logits of tiny, head"):
        fitted().start().update(batch_of([0, 0], [1, 1]), ModelOutputs(logits={"head": logits}), None)


def test_images_that_do_not_conflict():
    with pytest.raises(DataError, match="not one of 2 images"):
        answered([0, 1], [0, -1], [0, 1]).result()


# --- what is kept, drawn and written ---------------------------------------------------------------------------


def record(measurements, model):
    return ResultRecord(
        key=model, cell={"dataset": "sample", "split": "query", "level": None}, measurements=tuple(measurements)
    )


def finding(run, ids, model="net", condition="none"):
    return Finding(
        record=record(run.result(), model),
        model=model,
        condition=condition,
        arrays=run.arrays(),
        outcomes=run.outcomes(),
        ids=ids,
    )


def random_run(seed=0, n=40, heads=("head",), classes=CLASSES):
    drawn = np.random.default_rng(seed)
    shape, texture = drawn.integers(0, len(classes), n), drawn.integers(-1, len(classes), n)
    model = card(heads=heads, num_classes=len(classes))
    run = fitted(model, classes=classes).start()
    batch = batch_of(shape.tolist(), texture.tolist())
    logits = {head: naming(drawn.integers(0, len(classes), n).tolist(), len(classes)) for head in heads}
    run.update(batch, ModelOutputs(logits=logits), None)
    return run, batch.ids


def test_batches_in_any_order_give_the_same():
    shape, texture, named = SHAPE * 4, TEXTURE * 4, NAMED * 4
    whole = answered(shape, texture, named)
    parts = [fitted().start() for _ in range(2)]
    for part, rows in zip(parts, (range(20, 32), range(20)), strict=True):
        given = batch_of([shape[i] for i in rows], [texture[i] for i in rows], start=rows[0])
        part.update(given, ModelOutputs(logits={"head": naming([named[i] for i in rows])}), None)
    resumed = fitted().start()
    resumed.load_state_dict(parts[0].state_dict())
    resumed.merge(parts[1])
    assert resumed.result() == whole.result()
    for name, values in whole.arrays().items():
        assert name.startswith(SHOWN + IMAGES) or np.array_equal(values, resumed.arrays()[name])


def test_the_names_of_the_classes_are_kept():
    run, _ = random_run()
    assert class_names(run.arrays()) == CLASSES
    assert len(run.arrays()[POSITIONS]) == 6
    assert run.arrays()[SHOWN + IMAGES].dtype == np.uint8


def saved(folder, table):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([table.header, *table.rows])
    folder.mkdir(exist_ok=True)
    path = folder / "decisions.csv"
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize("classes", [CLASSES, ("class 0", "class 1", "star_in_dots", "ring-3")])
def test_written_decisions_read_back_to_the_same_bias(tmp_path, classes):
    run, ids = random_run(classes=classes)
    made = exhibit([finding(run, ids)])
    assert tuple(made.tables["decisions"].header) == COLUMNS
    path = saved(tmp_path, made.tables["decisions"])
    (again,) = read_decisions([path], classes=written_classes(classes))
    counts = again.decisions.counts()
    rows = {row.metric: row.value for row in run.result() if not row.dims}
    assert counts.bias == pytest.approx(rows["shape_bias"])
    assert counts.class_mean == pytest.approx(rows["shape_bias_class_mean"])
    assert sum(counts.texture) == rows["texture_decisions"]
    assert counts.agreeing == rows["agreeing_images"]
    assert again.name == "net"


def test_tables_hold_every_number_of_the_records():
    run, ids = random_run(heads=("average", "cls"))
    made = exhibit([finding(run, ids, model=model) for model in ("a", "b")])
    numbers = [dict(zip(made.tables[""].header, row, strict=True)) for row in made.tables[""].rows]
    assert [(row["model"], row["head"]) for row in numbers] == [
        ("a", "average"), ("a", "cls"), ("b", "average"), ("b", "cls"),
    ]  # fmt: skip
    told = {(row.metric, row.dims["head"]): row for row in run.result() if "class" not in row.dims}
    for row in numbers:
        found = told["shape_bias", row["head"]]
        assert (row["shape_bias"], row["shape_bias_low"], row["shape_bias_high"]) == (
            found.value,
            found.low,
            found.high,
        )
        assert row["texture_decisions"] == told["texture_decisions", row["head"]].value
    assert len(made.tables["classes"].rows) == 4 * len(CLASSES)
    assert sorted(name for name in made.tables if name.startswith("decisions")) == [
        "decisions-a_average", "decisions-a_cls", "decisions-b_average", "decisions-b_cls",
    ]  # fmt: skip


def entries(figure):
    return [text.get_text().split("\n")[0] for legend in figure.legends for text in legend.get_texts()]


def test_many_findings_go_on_several_pictures_and_none_is_left_out():
    runs = {head: random_run(1, 12, heads=head) for head in (("head",), ("average", "cls", "shape"))}
    findings = [
        finding(*runs["average", "cls", "shape"], model=model, condition=condition)
        for model in ("deit_a", "deit_b")
        for condition in ("none", "drop@0.5", "drop@0.9")
    ] + [finding(*runs["head",], model="cnn")]
    made = exhibit(findings)
    # A model's nine rows stay together.
    assert [len(entries(made.pictures[name])) for name in ("", "page2")] == [9, 10]
    assert entries(made.pictures["page2"])[:2] == ["deit_b, average", "deit_b, cls"]
    assert {name for name in made.pictures if name.startswith("images")} == {"images", "images-page2"}
    shown = [text.get_text() for name in ("images", "images-page2") for text in made.pictures[name].texts]
    assert {found.label for found in findings} <= set(shown)


def test_one_model_of_very_many_rows_is_split():
    run, ids = random_run(2, 8)
    made = exhibit([finding(run, ids, condition=f"drop@{i}") for i in range(25)])
    assert [len(entries(made.pictures[name])) for name in ("", "page2", "page3")] == [12, 12, 1]


def test_what_was_named_is_said_below_each_image():
    run = answered([0, 1, 2, 3], [1, 0, 2, 0], [0, 0, 2, 1])
    made = exhibit([finding(run, [f"i/{i}.png" for i in range(4)])])
    said = {text.get_text() for text in made.pictures["images"].texts}
    assert {"ant (shape)", "ant (texture)", "cat (both)", "bee (neither)"} <= said
    titles = [axes.get_title() for axes in made.pictures["images"].axes]
    assert titles[0] == "shape: ant\ntexture: bee"


def test_a_model_that_decides_nothing_is_drawn_and_told():
    run = answered([0, 1], [1, 0], [2, 3])
    made = exhibit([finding(run, ["a.png", "b.png"])])
    row = dict(zip(made.tables[""].header, made.tables[""].rows[0], strict=True))
    assert (row["shape_bias"], row["coverage"], row["shape_decisions"]) == (None, 0.0, 0)
    (text,) = [text.get_text() for legend in made.pictures[""].legends for text in legend.get_texts()]
    assert text == "net\n0 of 2 decided"


def test_the_entry_says_what_the_probe_is():
    (entry,) = harness_register_probes()
    assert isinstance(entry, ProbeEntry)
    info = ShapeBiasProbe().info
    assert (info.name, info.headline, info.version) == (entry.name, entry.headline, entry.version)
    assert (info.needs_label_space, info.maps_labels) == (entry.needs_label_space, entry.maps_labels)
    assert info.params == {"head": None, "aggregate": "mean"}
