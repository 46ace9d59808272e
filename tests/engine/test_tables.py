"""Records as tables and rows: every number under the name that tells it apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_doubles.models import TinyModel
from engine_doubles.probes import CentroidProbe

from harness.report.plans import plan_tables
from harness.report.summary_tables import summary_tables
from harness.report.tables import (
    MAX_COLUMNS,
    Table,
    measurement_rows,
    not_applicable_table,
    record_tables,
)
from harness.report.terminal import plain
from harness.types import Measurement, ResultRecord, SummaryRecord


def record(
    *,
    model="vit",
    perturbation="none",
    level=None,
    probe="head",
    support=None,
    support_level=None,
    seed=None,
    weights="pretrained:vit.tag",
    params=None,
    rows=(("top1", {}, 0.5),),
    limit=None,
    not_applicable=None,
    key=None,
    fingerprints=None,
    precision="fp32",
    view="crop=16",
    seeds=None,
    data="0" * 64,
):
    """A record as a run writes it; ``params`` and ``fingerprints`` by role."""
    names = {"model": model, "dataset": "digits", "perturbation": perturbation, "probe": probe}
    if support is not None:
        names["support"] = support
    params, fingerprints = params or {}, fingerprints or {}
    components = {
        role: {
            "use": name,
            "version": 1,
            "params": params.get(role, {}),
            "fingerprint": fingerprints.get(role, f"{name}{params.get(role, '')}"),
        }
        for role, name in names.items()
    }
    cell = {
        "model": model,
        "weights": weights,
        "dataset": "digits",
        "split": "query",
        "fingerprint": data,
        "limit": limit,
        "view": view,
        "support": support and {"perturbation": support, "level": support_level, "split": "support"},
        "perturbation": perturbation,
        "level": level,
        "probe": probe,
        "seeds": {"perturb": seed, "support_perturb": None, "probe": None, **(seeds or {})},
        "precision": precision,
        "components": components,
    }
    measurements = tuple(
        Measurement(
            metric=metric, dims=dims, value=value, n=200, low=value - 0.1, high=value + 0.1, interval="wilson95"
        )
        for metric, dims, value in rows
    )
    return ResultRecord(
        key=key or str(hash(repr(cell))), cell=cell, measurements=measurements, not_applicable=not_applicable
    )


def curve(model="vit", **given):
    return [record(model=model, **given), record(model=model, perturbation="drop", level=0.5, **given)]


def test_strength_runs_down_and_models_across():
    (table,) = record_tables([*curve("vit"), *curve("cnn")], {"head": "top1"})
    assert table.title == "top1 (%) of head on digits/query"
    assert table.header == ("perturbation", "vit", "cnn")
    assert table.rows == (("none", *["50.0 [40.0, 60.0]"] * 2), ("drop@0.5", *["50.0 [40.0, 60.0]"] * 2))
    assert table.notes == ("200 images; [low, high]: wilson95",)


def test_untrained_models_are_marked_wherever_they_are_shown():
    random = "random:vit:0:torch-2"
    (table,) = record_tables(curve(weights=random), {"head": "top1"})
    assert table.title.startswith("vit (untrained): ")
    (table,) = record_tables([*curve(weights=random), *curve("cnn")], {"head": "top1"})
    assert table.header == ("perturbation", "vit (untrained)", "cnn")
    refused = not_applicable_table([record(weights=random, not_applicable="no head", rows=())])
    assert refused.rows == (("digits/query", "head", "none", "1", "vit (untrained)", "no head"),)


def test_the_headline_is_shown_and_the_first_metric_where_it_is_not_known_or_not_given():
    rows = (("other", {}, 0.1), ("top1", {}, 0.9))
    assert record_tables([record(rows=rows)], {"head": "top1"})[0].rows == (("none", "90.0 [80.0, 100.0]"),)
    assert record_tables([record(rows=rows)], {})[0].title.startswith("vit: other")
    assert record_tables([record(rows=rows)], {"head": "mce"})[0].title.startswith("vit: other")
    assert record_tables([record(rows=())], {"head": "top1"}) == []
    assert record_tables([], {}) == []


def test_settings_of_a_probe_are_columns():
    rows = tuple(("accuracy", {"shots": shots}, shots / 100) for shots in (1, 5))
    (table,) = record_tables([record(probe="fewshot", rows=rows)], {"fewshot": "accuracy"})
    assert table.header == ("perturbation", "shots=1", "shots=5")
    two = record_tables([record(probe="fewshot", model=m, rows=rows) for m in ("vit", "cnn")], {})
    assert [table.title.split(":")[0] for table in two] == ["vit", "cnn"]


def test_many_models_have_a_table_each():
    models = [f"m{i}" for i in range(MAX_COLUMNS + 1)]
    assert len(record_tables([record(model=m) for m in models[:-1]], {})) == 1
    assert len(record_tables([record(model=m) for m in models], {})) == len(models)


def test_supports_limits_and_precisions_are_tables_of_their_own():
    records = [
        record(),
        record(support="none"),
        record(support="drop", support_level=0.5),
        record(limit=20),
        record(precision="bf16"),
    ]
    titles = [table.title for table in record_tables(records, {})]
    assert len(titles) == 5
    assert titles[2].endswith("support under drop@0.5")
    assert sum("support under" in title for title in titles) == 1
    assert "limit 20 of the split" in record_tables([record(limit=20)], {})[0].notes[0]


def test_what_was_realised_stands_beside_the_level():
    rows = (("top1", {}, 0.5), ("information_loss", {}, 0.497))
    (table,) = record_tables([record(), record(perturbation="drop", level=0.5, rows=rows)], {"head": "top1"})
    assert table.header == ("perturbation", "loss %", "top1")
    assert [row[:2] for row in table.rows] == [("none", "0.0"), ("drop@0.5", "49.7")]


def test_seeds_are_rows_of_their_own():
    records = [record(perturbation="drop", level=0.5, seed=seed) for seed in (0, 1)]
    assert [row[0] for row in record_tables(records, {})[0].rows] == ["drop@0.5", "drop@0.5 seed 1"]


def test_one_name_with_other_parameters_is_another_row():
    grids = [
        record(
            perturbation="drop",
            level=0.5,
            params={"perturbation": {"grid": [g, g], "fill": 0}},
            rows=(("top1", {}, g / 100),),
        )
        for g in (7, 14)
    ]
    (table,) = record_tables([record(), *grids], {})
    assert [row[0] for row in table.rows] == ["none", "drop:grid=7x7@0.5", "drop:grid=14x14@0.5"]
    assert [row[1][:4] for row in table.rows[1:]] == ["7.0 ", "14.0"]


def test_one_probe_with_other_parameters_is_another_table():
    records = [record(probe="fewshot", params={"probe": {"ridge": ridge}}) for ridge in (1.0, 1024.0)]
    assert [table.title for table in record_tables(records, {})] == [
        "vit: top1 (%) of fewshot:ridge=1.0 on digits/query",
        "vit: top1 (%) of fewshot:ridge=1024.0 on digits/query",
    ]


def test_one_model_with_other_weights_is_another_column():
    records = [record(weights=f"sha256:{digit * 64}") for digit in "ab"]
    (table,) = record_tables(records, {})
    assert table.header[1:] == ("vit [sha256:aaaaaaaaaaa]", "vit [sha256:bbbbbbbbbbb]")


def test_equal_parameters_that_are_not_the_same_are_told_apart_by_fingerprint():
    records = [record(perturbation="salient", fingerprints={"perturbation": f"{d * 16}"}) for d in "cd"]
    rows = [row[0] for row in record_tables(records, {})[0].rows]
    assert rows == [f"salient [{d * 16}]" for d in "cd"]


def test_only_what_differs_is_spelled_out():
    params = {"model": {"arch": "vit.tag", "drop_path": 0.1}}
    assert record_tables([record(params=params)], {})[0].title.startswith("vit: ")


def test_numbers_that_are_no_fractions_are_not_percent():
    row = Measurement(metric="distance", value=116.4921, n=3, unit="px")
    found = ResultRecord(key="k", cell=record().cell, measurements=(row,))
    (table,) = record_tables([found], {})
    assert table.title == "vit: distance (px) of head on digits/query"
    assert table.rows == (("none", "116.5"),)


def test_one_dataset_with_other_parameters_is_another_table():
    records = [
        record(params={"dataset": {"contrast": contrast, "seed": 0}}, rows=(("top1", {}, contrast / 2),))
        for contrast in (0.25, 1.0)
    ]
    found = [(table.title, table.rows) for table in record_tables(records, {})]
    assert found == [
        ("vit: top1 (%) of head on digits:contrast=0.25/query", (("none", "12.5 [2.5, 22.5]"),)),
        ("vit: top1 (%) of head on digits:contrast=1.0/query", (("none", "50.0 [40.0, 60.0]"),)),
    ]


def test_precision_is_in_the_title_where_it_differs():
    titles = [table.title for table in record_tables([record(), record(precision="bf16")], {})]
    assert [title.rpartition("digits/query")[2] for title in titles] == [", fp32", ", bf16"]


@pytest.mark.parametrize(
    ("first", "second", "columns"),
    [
        ({"view": "crop=16"}, {"view": "crop=32"}, ("vit view=crop=16", "vit view=crop=32")),
        ({"seeds": {"probe": 0}}, {"seeds": {"probe": 7}}, ("vit probe seed 0", "vit probe seed 7")),
        (
            {"seeds": {"support_perturb": 0}},
            {"seeds": {"support_perturb": 7}},
            ("vit support seed 0", "vit support seed 7"),
        ),
        ({"data": "a" * 64}, {"data": "b" * 64}, ("vit data aaaaaaaa", "vit data bbbbbbbb")),
        ({"key": "a" * 64}, {"key": "b" * 64}, ("vit cell aaaaaaaa", "vit cell bbbbbbbb")),
    ],
    ids=["view", "probe seed", "support seed", "data", "nothing that is shown"],
)
def test_records_of_one_model_never_share_a_place(first, second, columns):
    low, high = (("top1", {}, 0.25),), (("top1", {}, 0.75),)
    (table,) = record_tables([record(rows=low, **first), record(rows=high, **second)], {})
    assert table.header[1:] == columns
    assert table.rows == (("none", "25.0 [15.0, 35.0]", "75.0 [65.0, 85.0]"),)


def test_views_of_several_models_are_not_spelled_out():
    (table,) = record_tables([record(view="crop=16"), record(model="cnn", view="crop=32")], {})
    assert table.header[1:] == ("vit", "cnn")


def test_weights_are_shown_as_far_as_they_differ():
    records = [record(weights=f"random:vit_of_a_long_name:{seed}:torch-2") for seed in (0, 1)]
    (table,) = record_tables(records, {})
    assert len(set(table.header[1:])) == 2


@pytest.mark.parametrize("params", [({"grid": [1, 2]}, {"grid": "1x2"}), ({}, {"grid": None})])
def test_parameters_that_read_the_same_are_told_apart_by_fingerprint(params):
    records = [
        record(perturbation="drop", params={"perturbation": own}, fingerprints={"perturbation": digit * 16})
        for own, digit in zip(params, "cd", strict=True)
    ]
    (table,) = record_tables(records, {})
    assert [row[0][-18:] for row in table.rows] == [f"[{digit * 16}]" for digit in "cd"]


def test_a_second_number_for_one_place_is_a_fault():
    twice = (("top1", {}, 0.25), ("top1", {}, 0.75))
    with pytest.raises(AssertionError, match="a second top1 for row none, column vit"):
        record_tables([record(rows=twice)], {})


def refusals(model, conditions, probe="head"):
    reason = f"probe {probe} needs logits, which model {model} does not have"
    return [
        record(model=model, probe=probe, perturbation=name, level=level, rows=(), not_applicable=reason)
        for name, level in conditions
    ]


def test_reasons_are_listed_once_with_all_that_they_hold_for():
    sweep = [("none", None), ("drop", 0.25), ("drop", 0.5)]
    table = not_applicable_table([*refusals("dino", sweep), *refusals("mae", sweep), *curve("vit")])
    reason = "probe head needs logits, which the model does not have"
    assert table.rows == (("digits/query", "head", "all 3", "6", "dino, mae", reason),)
    assert not_applicable_table([record()]) is None


def test_perturbations_are_named_where_a_reason_does_not_hold_for_all():
    refused = [*refusals("dino", [("drop", 0.25), ("drop", 0.5)]), *refusals("mae", [("drop", 0.5)])]
    rows = not_applicable_table([*refused, *curve("vit")]).rows
    assert [row[2:5] for row in rows] == [("drop@0.25, drop@0.5", "2", "dino"), ("drop@0.5", "1", "mae")]


def test_reasons_of_two_datasets_or_probes_are_rows_of_their_own():
    variants = [
        record(rows=(), not_applicable="no head", params={"dataset": {"contrast": contrast}}) for contrast in (0.5, 1)
    ]
    rows = not_applicable_table([*variants, *refusals("vit", [("none", None)], probe="other")]).rows
    assert [row[:2] for row in rows] == [
        ("digits:contrast=0.5/query", "head"),
        ("digits:contrast=1/query", "head"),
        ("digits:contrast=None/query", "other"),
    ]


def test_rows_hold_every_measurement_flat():
    rows = measurement_rows(
        [
            record(
                probe="fewshot",
                params={"probe": {"shots": [1, 5]}},
                support="drop",
                support_level=0.25,
                rows=(("accuracy", {"shots": 1}, 0.25), ("accuracy", {"shots": 5}, 0.5)),
                key="abc",
            ),
            record(rows=(), not_applicable="no head", weights="random:vit:0:torch"),
        ]
    )
    assert len(rows) == 3
    assert [row["value"] for row in rows[:2]] == [0.25, 0.5]
    assert [row["shots"] for row in rows[:2]] == [1, 5]
    assert rows[0]["key"] == "abc"
    assert (rows[0]["support"], rows[0]["probe_params"], rows[0]["support_params"]) == ("drop@0.25", "shots=1+5", "")
    assert (rows[2]["not_applicable"], rows[2]["untrained"], rows[2].get("value")) == ("no head", True, None)


def test_plain_text_is_aligned():
    table = Table(title="t", header=("name", "value"), rows=(("a", "1.0"), ("longer", "10.0")), notes=("200 images",))
    assert plain(table).splitlines() == ["t", "name    value", "a         1.0", "longer   10.0", "200 images"]


# --- summaries


def summary(*rows, model="vit"):
    """Of one model under one perturbation; ``rows`` of (metric, value, and what else a measurement has)."""
    found = tuple(Measurement(metric=metric, value=value, n=9, **given) for metric, value, given in rows)
    group = {"model": model, "dataset": "digits", "split": "test", "perturbation": "drop", "probe": "head"}
    return SummaryRecord(summary="retention", version=1, group=group, records=(f"{model}1",), measurements=found)


BOUNDED = {"low": 0.25, "high": 0.75, "interval": "bootstrap95"}


def test_numbers_of_a_summary_stand_three_to_a_table():
    metrics = ["one", "two", "three", "four"]
    first, second = summary_tables([summary(*((metric, 0.5, BOUNDED) for metric in metrics))])
    assert (first.title, second.title) == ("retention", "retention, continued")
    assert (first.header[3:], second.header[3:]) == (("one", "two", "three"), ("four",))
    assert first.rows == (("vit", "drop", "head", *["50.0 [25.0, 75.0]"] * 3),)
    assert second.rows == (("vit", "drop", "head", "50.0 [25.0, 75.0]"),)
    assert first.notes == second.notes == ()


def test_classes_and_levels_are_left_to_the_file_and_classes_are_spoken_of():
    rows = [("area", 0.5, BOUNDED)]
    rows += [("retention", 0.1, {"dims": {"level": level}}) for level in (0.1, 0.2)]
    rows += [
        ("class_retention", 0.1, {"dims": {"level": level, "class": label}})
        for level in (0.1, 0.2)
        for label in range(1000)
    ]
    (table,) = summary_tables([summary(*rows), summary(*rows, model="cnn")])
    assert table.header == ("model", "perturbation", "probe", "area")
    assert len(table.rows) == 2
    assert table.notes == ("class_retention of 1000 classes, level by level: summaries.jsonl",)


def test_numbers_of_corruptions_are_lists_with_models_across_five_at_a_time():
    rows = [("mce", 76.7, {"unit": "percent", "low": 75.0, "high": 78.25, "interval": "bootstrap95"})]
    rows += [("error", 0.25, {"dims": {"corruption": name}}) for name in ("snow", "fog")]
    rows += [("ce", 80.0, {"unit": "percent", "dims": {"corruption": "fog", "shots": shots}}) for shots in (1, 5)]
    main, errors, more, ce, _ = summary_tables([summary(*rows, model=f"vit{place}") for place in range(6)])
    assert main.header[3:] == ("mce",)
    assert main.rows[0] == ("vit0", "drop", "head", "76.7 [75.0, 78.2]")
    assert (errors.title, more.title) == ("error (%) of drop head", "error (%) of drop head, continued")
    assert errors.header == ("corruption", *(f"vit{place}" for place in range(5)))
    assert more.header == ("corruption", "vit5")
    assert more.rows == (("snow", "25.0"), ("fog", "25.0"))
    assert (ce.title, ce.labels, ce.header[:2]) == ("ce (%)", 2, ("corruption", "probe"))
    assert [row[:3] for row in ce.rows] == [("fog", f"drop head shots={shots}", "80.0") for shots in (1, 5)]


def test_what_a_summary_cannot_say_is_said():
    (table,) = summary_tables(
        [
            summary(("area", 0.5, BOUNDED), ("half", 0.5, {})),
            summary(("area", 0.5, BOUNDED), model="cnn"),
            summary(("area", 0.5, BOUNDED), ("half", 16.0, {"unit": "level"}), model="net"),
        ]
    )
    assert [row[-1] for row in table.rows] == ["50.0", "", "16 (level)"]
    assert table.notes == (
        "blank: there is no such number",
        "no [low, high]: resamples of these images give none",
    )


# --- tables of real runs


def test_summaries_of_one_name_with_other_parameters_are_rows_of_their_own(run, dataset):
    result = run(
        model=TinyModel(),
        dataset=dataset,
        probe=["centroid:shots=1", "centroid:shots=4"],
        perturb=["none", "dimmed@0.25,0.5"],
        support_perturb=["none", "dimmed@0.5"],
    )
    table, *_ = summary_tables(result.summaries, result.records)
    assert table.header[:3] == ("model", "perturbation", "probe")
    assert len(table.rows) == len({row[:3] for row in table.rows}) == 4
    assert {row[1] for row in table.rows} == {"dimmed"}
    assert any("centroid:shots=1, support under dimmed@0.5" in row[2] for row in table.rows)
    assert all(cell for row in table.rows for cell in row)


def test_summaries_come_in_the_order_in_which_they_were_asked_for(run, dataset):
    for order in (["dimmed@0.25,0.5", "holed@0.25,0.5"], ["holed@0.25,0.5", "dimmed@0.25,0.5"]):
        result = run(model=TinyModel(), dataset=dataset, probe="centroid", perturb=["none", *order])
        table, *_ = summary_tables(result.summaries, result.records)
        assert [row[1] for row in table.rows] == [text.partition("@")[0] for text in order]


def test_summaries_of_two_datasets_are_tables_of_their_own(run, dataset):
    result = run(model=TinyModel(), dataset=dataset, probe="centroid:shots=1", perturb=["none", "dimmed@0.25,0.5"])
    (summary,) = result.summaries
    elsewhere = []
    for record_ in result.records:
        parts = record_.cell["components"]
        other = {**parts["dataset"], "params": {"contrast": 0.5}, "fingerprint": "f" * 16}
        cell = {**record_.cell, "components": {**parts, "dataset": other}}
        elsewhere.append(replace(record_, key=f"other {record_.key}", cell=cell))
    twin = replace(summary, records=tuple(f"other {key}" for key in summary.records))
    tables = summary_tables([summary, twin], [*result.records, *elsewhere])
    tables = [table for table in tables if not table.title.endswith(", continued")]
    assert [table.title for table in tables] == [
        f"{summary.summary} on tints:contrast=None/query",
        f"{summary.summary} on tints:contrast=0.5/query",
    ]
    assert [len(table.rows) for table in tables] == [1, 1]
    table, *_ = summary_tables([summary, twin])
    assert len({row[:3] for row in table.rows}) == len(table.rows) == 2


def test_a_plan_as_tables(plan, run, dataset):
    grid = {
        "model": "tiny",
        "dataset": dataset,
        "probe": ["pixels", CentroidProbe(shots=3)],
        "perturb": ["none", "dimmed@0.25,0.5"],
    }
    planned = plan(**grid)
    cells, passes = plan_tables(planned)
    assert cells.title == "6 cells (0 already recorded)"
    assert ("tiny", "tints/query", "pixels", "dimmed", "0.25,0.5", "", "") in cells.rows
    assert ("tiny", "tints/query", "centroid:shots=3", "none", "", "none", "") in cells.rows
    assert passes.rows == (("tiny", "embedded", "tints/query", "crop=16", "6", "33", "3", "99"),)
    assert passes.notes[0].startswith("99 forward passes of one image")
    done = {record.key for record in run(**{**grid, "probe": "pixels"}).records}
    cells, passes = plan_tables(planned, done)
    assert cells.title == "6 cells (3 already recorded)"
    assert passes.rows[0][4] == "3"


def test_a_plan_shows_why_a_cell_is_refused(plan, dataset):
    cells, passes = plan_tables(plan(model="elsew*", dataset=dataset, probe="toy_head"))
    assert "imagenet1k" in cells.rows[0][-1]
    assert passes.rows == ()


@pytest.mark.parametrize("width", [1, 3])
def test_a_table_without_rows_is_still_a_table(width):
    assert plain(Table(title="", header=("x",) * width, rows=())) == "  ".join("x" * width)


def test_a_title_leaves_out_what_most_probes_of_the_name_have_alike():
    params = [
        {"solver": "logistic", "recipe": "dino", "seeds": 1},
        {"solver": "sgd", "recipe": "dinov2", "seeds": 1},
        {"solver": "ridge", "recipe": "dino", "seeds": 1},
    ]
    records = [record(probe="linear", params={"probe": given}, key=str(i)) for i, given in enumerate(params)]
    assert [table.title.split(" of ")[1].split(" on ")[0] for table in record_tables(records, {})] == [
        "linear:solver=logistic",
        "linear:solver=sgd:recipe=dinov2",
        "linear:solver=ridge",
    ]


def test_what_is_usual_is_said_where_it_alone_tells_probes_apart():
    params = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}]
    records = [record(probe="p", params={"probe": given}, key=str(i)) for i, given in enumerate(params)]
    assert [table.title.split(" of ")[1].split(" on ")[0] for table in record_tables(records, {})] == [
        "p",
        "p:b=2",
        "p:a=2",
    ]


def test_what_was_measured_is_said_even_where_nothing_else_differs(run):
    result = run(model="tiny", dataset="tints", probe="toy_head", perturb="signstep:source=tiny@16")
    (table, *_) = result.tables()
    assert [row[0] for row in table.rows] == ["signstep:source=tiny@16"]
    assert result.get(perturbation="signstep").cell["components"]["perturbation"]["identity"] == {"source": "tiny"}
