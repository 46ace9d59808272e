"""What a sweep leaves for people: a table that says all the records say, and pictures named after what they show."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from harness.errors import RecordsError
from harness.report import artifacts
from harness.report.artifacts import COLUMNS, write_artifacts
from harness.report.panels import MAX_PANELS
from harness.types import (
    Cell,
    DatasetRef,
    LevelSpec,
    Measurement,
    ResolvedRef,
    ResultRecord,
    Seeds,
    View,
    WeightsInfo,
)

HEADLINES = {"head": "top1", "fewshot": "accuracy"}
LEVELS = {"drop": LevelSpec(name="ratio", values=(0.25, 0.5), low=0, high=1, identity=0.0)}


def ref(kind, text):
    """A component from ``name:key=value``, as it would be typed."""
    name, *given = text.split(":")
    identity = dict(part.split("=") for part in given)
    return ResolvedRef(kind=kind, name=name, use=name, params={"size": "default", **identity}, identity=identity)


def cell(perturbation="none", level=None, *, model="vit", dataset="digits", probe="head", seed=None, **given):
    weights = given.pop("weights", f"pretrained:{model}.tag")
    return Cell(
        model=ref("model", model),
        weights=WeightsInfo(origin="random" if weights.startswith("random") else "pretrained", identity=weights),
        dataset=DatasetRef(
            ref=ref("dataset", dataset), split="test", fingerprint="f", label_space=None, num_classes=10,
            limit=given.pop("limit", None),
        ),
        view=View(crop=16),
        perturbation=ref("perturbation", perturbation),
        level=level,
        probe=ref("probe", probe),
        seeds=Seeds(perturb=seed),
        **given,
    )  # fmt: skip


def answer(asked, *rows, loss=None, **realised):
    """The record of a cell: ``rows`` of (dims, value) of the headline, each +- .1, and what was realised."""
    metric = HEADLINES[asked.probe.name]
    found = [
        Measurement(metric=metric, dims=dims, value=value, n=30, low=value - 0.1, high=value + 0.1, interval="wilson95")
        for dims, value in rows or [({}, 0.5)]
    ]
    found.append(Measurement(metric="top5", value=0.9, n=30))
    realised |= {} if loss is None else {"information_loss": loss}
    found += [Measurement(metric=name, value=value, n=30, higher_is_better=None) for name, value in realised.items()]
    return ResultRecord(key=asked.key, cell=asked.as_dict(), measurements=tuple(found))


def sweep(perturbations=("drop",), levels=(0.25, 0.5), **given):
    """Clean, then each perturbation at each level."""
    return [cell(**given), *(cell(name, level, **given) for name in perturbations for level in levels)]


def answered(cells, *rows):
    return [answer(each, *rows, loss=each.level) for each in cells]


@pytest.fixture
def drawn(monkeypatch):
    """What the pictures were drawn of, in order."""
    figures = []
    draw = artifacts.draw_curves

    def spy(*given, **named):
        figures.append(draw(*given, **named))
        return figures[-1]

    monkeypatch.setattr(artifacts, "draw_curves", spy)
    return figures


def write(folder, cells, records, levels=LEVELS):
    return write_artifacts(folder, cells, records, HEADLINES, levels)


def table(folder):
    return list(csv.DictReader(io.StringIO((folder / "artifacts" / "curves.csv").read_text())))


def names(made):
    return [path.name for path in made.pictures]


# --- when


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [cell(), cell("drop", 0.5)],
        [cell(), cell("flip"), cell("drop", 0.25), cell("mask", 0.5)],
        [cell(), cell("drop", 0.5), cell("drop:size=2", 0.25)],
        [cell(), cell("drop", 0.25), cell("drop", 0.5, not_applicable="no head")],
    ],
)
def test_without_a_sweep_nothing_is_written(tmp_path, cells):
    assert write(tmp_path, cells, answered(cells)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_gives_a_table_and_a_picture(tmp_path):
    cells = sweep()
    made = write(tmp_path, cells, answered(cells))
    assert made.table == tmp_path / "artifacts" / "curves.csv"
    assert made.pictures == (tmp_path / "artifacts" / "curves-digits-head.png",)
    assert made.pictures[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == ["curves-digits-head.png", "curves.csv"]


def test_pictures_of_earlier_plans_go_and_other_files_stay(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for name in ("curves.csv", "curves-digits-head.png", "curves-other-head.png", "notes.txt"):
        (folder / name).write_bytes(b"old")
    cells = sweep()
    write(tmp_path, cells, answered(cells))
    assert {path.name for path in folder.iterdir() if path.read_bytes() == b"old"} == {"notes.txt"}


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "artifacts").write_text("a file")
    with pytest.raises(RecordsError, match="cannot write"):
        write(tmp_path, sweep(), answered(sweep()))


# --- the table


def test_every_number_of_the_headline_is_a_row_in_the_order_of_the_plan(tmp_path):
    cells = [
        *sweep(probe="fewshot:shots=1+5", dataset="digits:contrast=2"),
        cell("drop:fill=mean", 0.5, seed=1, probe="fewshot:shots=1+5", model="cnn", weights="random:cnn:0", limit=30,
             support=ref("perturbation", "drop:fill=mean"), support_level=0.25),
    ]  # fmt: skip
    records = [
        answer(each, ({"shots": 1, "head": "cls"}, 1 / 3), ({"shots": 5, "head": "cls"}, 0.1 + 0.2), loss=each.level)
        for each in cells
    ]
    write(tmp_path, cells, records[::-1])
    rows = table(tmp_path)
    assert list(rows[0]) == [*COLUMNS, "key"]
    assert [row["key"] for row in rows] == [each.key for each in cells for _ in range(2)]
    first, *_, last = rows
    assert first | {"key": ""} == {
        "dataset": "digits:contrast=2",
        "split": "test",
        "limit": "",
        "model": "vit",
        "weights": "pretrained:vit.tag",
        "untrained": "False",
        "view": "crop=16",
        "perturbation": "none",
        "level": "",
        "level_name": "",
        "seed": "",
        "probe": "fewshot:shots=1+5",
        "support": "",
        "precision": "fp32",
        "dims": "shots=1 head=cls",
        "metric": "accuracy",
        "value": repr(1 / 3),
        "low": repr(1 / 3 - 0.1),
        "high": repr(1 / 3 + 0.1),
        "interval": "wilson95",
        "n": "30",
        "information_loss": "0.0",
        "key": "",
    }
    told = {name: last[name] for name in ("model", "untrained", "perturbation", "level", "level_name", "seed", "limit")}
    assert told == {
        "model": "cnn",
        "untrained": "True",
        "perturbation": "drop:fill=mean",
        "level": "0.5",
        "level_name": "ratio",
        "seed": "1",
        "limit": "30",
    }
    assert last["support"] == "drop:fill=mean@0.25"
    assert float(last["value"]) == 0.1 + 0.2


def test_whatever_else_was_realised_has_a_column(tmp_path):
    cells = sweep()
    records = [answer(cells[0]), answer(cells[1], loss=0.2, saliency_mass=0.3), answer(cells[2], loss=0.4)]
    write(tmp_path, cells, records)
    assert [row["saliency_mass"] for row in table(tmp_path)] == ["", "0.3", ""]
    assert [row["information_loss"] for row in table(tmp_path)] == ["0.0", "0.2", "0.4"]
    assert "top5" not in table(tmp_path)[0]


def test_cells_without_a_record_or_a_number_are_left_out(tmp_path):
    cells = [*sweep(), cell("drop", 0.75), cell("flip")]
    records = [*answered(cells[:3]), replace(answer(cells[4]), not_applicable="no head", measurements=())]
    write(tmp_path, cells, records)
    assert [row["level"] for row in table(tmp_path)] == ["", "0.25", "0.5"]


def test_numbers_that_no_interval_bounds_have_none(tmp_path):
    cells = sweep()
    bare = [
        ResultRecord(key=each.key, cell=each.as_dict(), measurements=(Measurement(metric="top1", value=0.5, n=9),))
        for each in cells
    ]
    write(tmp_path, cells, bare)
    assert {(row["low"], row["high"], row["interval"]) for row in table(tmp_path)} == {("", "", "")}


# --- the pictures


def test_each_dataset_probe_and_row_has_a_picture_of_its_own(tmp_path, drawn):
    cells = [*sweep(dataset="digits"), *sweep(dataset="shapes_novel", probe="fewshot")]
    records = [
        answer(each, *[({"shots": 1}, 0.25), ({"shots": 5}, 0.75)] * (each.probe.name == "fewshot"), loss=each.level)
        for each in cells
    ]
    made = write(tmp_path, cells, records)
    assert names(made) == [
        "curves-digits-head.png",
        "curves-shapes_novel-fewshot-shots=1.png",
        "curves-shapes_novel-fewshot-shots=5.png",
    ]
    for figure, value in zip(drawn, (50, 25, 75), strict=True):
        (axes,) = figure.axes
        assert axes.lines[0].get_xydata().tolist() == [[0, value], [25, value], [50, value]]


def test_a_picture_is_drawn_as_in_the_paper(tmp_path, drawn):
    cells = [*sweep(("drop", "mask", "blank")), *sweep(("drop", "mask", "blank"), model="cnn")]
    write(
        tmp_path,
        cells,
        [answer(each, ({}, 0.9 if each.model.name == "vit" else 0.4), loss=each.level) for each in cells],
    )
    (figure,) = drawn
    assert [axes.get_title(loc="left").splitlines()[-1] for axes in figure.axes] == [
        "under drop",
        "under mask",
        "under blank",
    ]
    bottoms = {round(axes.get_position().y0, 6) for axes in figure.axes}
    assert len(bottoms) == 1  # side by side
    for axes in figure.axes:
        left, right = axes.get_xlim()
        assert left <= 0
        assert right == pytest.approx(100, abs=3)
        assert axes.get_ylim() == (0, 100)
        curves = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert [line.get_ydata().tolist() for line in curves] == [[90] * 3, [40] * 3]
        assert len(axes.collections) == 2  # a band of intervals for each model
        assert any(line.get_linestyle() == ":" and set(line.get_ydata()) == {10} for line in axes.lines)  # chance


def test_only_sweeps_are_drawn_with_the_clean_numbers_of_their_models(tmp_path, drawn):
    cells = [*sweep(), cell("flip"), cell("mask", 0.5), cell(model="cnn"), cell("mask", 0.5, model="cnn")]
    write(tmp_path, cells, answered(cells))
    (figure,) = drawn
    (axes,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["vit"]
    assert axes.lines[0].get_xdata().tolist() == [0, 25, 50]
    assert len(table(tmp_path)) == 7


def test_seeds_are_averaged(tmp_path, drawn):
    cells = [cell(), *(cell("drop", level, seed=seed) for level in (0.25, 0.5) for seed in (0, 1))]
    records = [answer(each, ({}, {None: 1.0, 0: 0.25, 1: 0.75}[each.seeds.perturb]), loss=each.level) for each in cells]
    write(tmp_path, cells, records)
    assert drawn[0].axes[0].lines[0].get_ydata().tolist() == [100, 50, 50]
    assert [row["seed"] for row in table(tmp_path)] == ["", "0", "1", "0", "1"]


@pytest.mark.parametrize("extra", [1, MAX_PANELS + 1])
def test_more_panels_than_a_page_holds_are_several_pictures_of_like_size(tmp_path, drawn, extra):
    perturbations = [f"drop:size={place}" for place in range(MAX_PANELS + extra)]
    cells = sweep(perturbations)
    made = write(tmp_path, cells, answered(cells))
    pages = math.ceil(len(perturbations) / MAX_PANELS)
    assert names(made) == [f"curves-digits-head-{page}of{pages}.png" for page in range(1, pages + 1)]
    titles = [[axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes] for figure in drawn]
    assert max(map(len, titles)) - min(map(len, titles)) < pages
    shown = [title.rpartition("under ")[2].replace(" ", "") for page in titles for title in page]
    assert shown == [f"drop:size={place}" for place in range(len(perturbations))]
    assert all(axes.lines[0].get_xdata()[0] == 0 for figure in drawn for axes in figure.axes)  # clean on every page


def test_components_are_named_by_what_tells_them_apart_on_whichever_page(tmp_path, drawn):
    cells = [*sweep(("drop", "drop:fill=mean"), dataset="digits"), *sweep(("drop",), dataset="digits:contrast=2")]
    made = write(tmp_path, cells, answered(cells))
    assert names(made) == ["curves-digits-head.png", "curves-digits_contrast=2-head.png"]
    (last,) = drawn[1].axes
    assert last.get_title(loc="left").replace("\n", " ") == "head on digits:contrast=2/test under drop"


def test_a_setting_of_the_probe_stands_in_a_name_once(tmp_path):
    cells = [*sweep(probe="fewshot:shots=1"), *sweep(probe="fewshot:shots=5")]
    records = [answer(each, ({"shots": int(each.probe.identity["shots"])}, 0.5), loss=each.level) for each in cells]
    made = write(tmp_path, cells, records)
    assert names(made) == ["curves-digits-fewshot-shots=1.png", "curves-digits-fewshot-shots=5.png"]


def test_names_are_safe_short_and_never_the_same(tmp_path):
    strange = ["../up", "..|up", "Digits", "digits", "x" * 300]
    cells = [each for name in strange for each in sweep(dataset=name)]
    made = write(tmp_path, cells, answered(cells))
    found = names(made)
    assert len({name.casefold() for name in found}) == len(strange)
    assert all(path.parent == tmp_path / "artifacts" and path.is_file() for path in made.pictures)
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.=+_-") for name in found
    )
    assert max(map(len, found)) < 140


def test_levels_without_loss_are_drawn_over_their_axis(tmp_path, drawn):
    cells = sweep()
    write(tmp_path, cells, [answer(each) for each in cells])
    assert drawn[0].axes[0].get_xlabel() == "ratio"
    assert [row["information_loss"] for row in table(tmp_path)] == ["0.0", "", ""]
