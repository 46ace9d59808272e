"""Pictures of results: what is drawn is what the records say, and a reader is told what it is."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from harness.errors import UsageError
from harness.report import curves
from harness.report.curves import check_picture, draw_curves, save_curves
from harness.report.labels import chance_of, counted_text
from harness.report.panels import MAX_PANELS, least_panels
from harness.types import LevelSpec, Measurement, ResultRecord

SEVERITY = LevelSpec(name="severity", values=(1, 3, 5), low=1, high=5)
EPS = LevelSpec(name="eps_255", unit="1/255", values=(1.0, 8.0), low=0, high=16, identity=0.0)
HEADLINES = {"head": "top1", "fewshot": "accuracy"}


def record(
    value=0.5,
    *,
    metric="top1",
    dims=None,
    rows=None,
    loss=None,
    model="vit",
    weights="pretrained:tag",
    perturbation="none",
    level=None,
    probe="head",
    support=None,
    seed=None,
    params=None,
    n=200,
    half=0.1,
    interval="wilson95",
    unit="fraction",
    higher=True,
    not_applicable=None,
    **cell,
):
    """A record as a run writes it: one number, or ``rows`` of (dims, value), each +- ``half``."""
    names = {"model": model, "dataset": "digits", "perturbation": perturbation, "probe": probe}
    names |= {} if support is None else {"support": support}
    params = params or {}
    asked = {
        "model": model,
        "weights": weights,
        "dataset": "digits",
        "split": "test",
        "fingerprint": "f" * 64,
        "limit": None,
        "num_classes": 10,
        "view": "crop=16",
        "support": support and {"perturbation": support, "level": 0.5, "split": "train"},
        "perturbation": perturbation,
        "level": level,
        "probe": probe,
        "seeds": {"perturb": seed, "support_perturb": None, "probe": None},
        "precision": "fp32",
        "components": {
            role: {
                "use": name,
                "version": 1,
                "params": params.get(role, {}),
                "fingerprint": f"{name}{params.get(role)}",
            }
            for role, name in names.items()
        },
        **cell,
    }
    measurements = [
        Measurement(
            metric=metric,
            dims=row,
            value=number,
            n=n,
            low=None if half is None else number - half,
            high=None if half is None else number + half / 2,
            interval=None if half is None else interval,
            unit=unit,
            higher_is_better=higher,
        )
        for row, number in (rows or [(dims or {}, value)])
    ]
    if loss is not None:
        measurements.append(Measurement(metric="information_loss", value=loss, n=n))
    return ResultRecord(
        key=repr(asked),
        cell=asked,
        measurements=() if not_applicable else tuple(measurements),
        not_applicable=not_applicable,
    )


def sweep(model="vit", *, clean=0.9, values=((0.25, 0.24, 0.7), (0.5, 0.49, 0.4)), perturbation="drop", **given):
    """A clean record, and one per (level, loss, value)."""
    bases = [] if clean is None else [record(clean, model=model, **given)]
    return bases + [
        record(value, model=model, perturbation=perturbation, level=level, loss=loss, **{"seed": 0, **given})
        for level, loss, value in values
    ]


def leveled(model="vit", perturbation="noise", **given):
    """As ``sweep``, without a realised loss."""
    return sweep(model, values=((1, None, 0.7), (3, None, 0.4), (5, None, 0.2)), perturbation=perturbation, **given)


def drawn(axes) -> dict[str, np.ndarray]:
    """(N, 2) points of every line by its label, chance left out."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if line.get_label() != "chance"}


def bands(axes) -> dict[str, list[tuple[float, float, float]]]:
    """(x, low, high) of every interval by label, of bands and bars alike, in percent rounded to 6 places."""
    found = {}
    for collection in axes.collections:
        vertices = np.concatenate([path.vertices for path in collection.get_paths()]).round(6)
        ends = [(x, vertices[vertices[:, 0] == x, 1]) for x in np.unique(vertices[:, 0])]
        found[collection.get_label()] = [(x, ys.min(), ys.max()) for x, ys in ends]
    return found


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def entries(figure) -> list[str]:
    return [text.get_text().strip() for legend in figure.legends for text in legend.get_texts()]


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


# --- curves over the realised loss


def test_a_line_is_the_records_values_over_their_losses_with_the_clean_point_at_0():
    figure = draw_curves([*sweep("vit"), *sweep("cnn", clean=0.8)], HEADLINES)
    (axes,) = figure.axes
    found = drawn(axes)
    assert list(found) == ["vit", "cnn"]
    np.testing.assert_allclose(found["vit"], [(0, 90), (24, 70), (49, 40)])
    np.testing.assert_allclose(found["cnn"], [(0, 80), (24, 70), (49, 40)])


def test_bands_are_the_intervals():
    (axes,) = draw_curves(sweep(), HEADLINES).axes
    assert bands(axes) == {"vit": [(0, 80, 95), (24, 60, 75), (49, 30, 45)]}
    assert len(axes.collections[0].get_paths()) == 1


def test_with_many_lines_intervals_are_bars():
    models = [f"m{i}" for i in range(5)]
    figure = draw_curves([r for model in models for r in sweep(model)], HEADLINES)
    assert bands(figure.axes[0]) == {model: [(0, 80, 95), (24, 60, 75), (49, 30, 45)] for model in models}
    assert {len(c.get_paths()) for c in figure.axes[0].collections} == {3}
    assert texts(figure) == ["bars: 95 % intervals (wilson95); 200 images"]


def test_points_without_an_interval_have_no_band():
    figure = draw_curves(sweep(half=None), HEADLINES)
    assert len(drawn(figure.axes[0])["vit"]) == 3
    assert all(not len(path.vertices) for c in figure.axes[0].collections for path in c.get_paths())
    assert texts(figure) == ["200 images"]
    draw_curves(sweep(half=None), HEADLINES).canvas.draw()


def test_words_of_a_panel():
    (axes,) = draw_curves(sweep(probe="fewshot", metric="accuracy", dims={"shots": 5}), HEADLINES).axes
    assert axes.get_title(loc="left") == "fewshot (shots = 5) on digits/test\nunder drop"
    assert axes.get_xlabel() == "realised information loss (%)"
    assert axes.get_ylabel() == "accuracy (%)"
    assert axes.get_ylim() == (0, 100)


@pytest.mark.parametrize(
    ("metric", "classes", "chance"),
    [("top1", 10, 10), ("accuracy", 3, 100 / 3), ("top5", 1000, 0.5), ("top5", 4, 100), ("agreement", 10, None),
     ("top1", None, None)],
)  # fmt: skip
def test_chance_level(metric, classes, chance):
    (axes,) = draw_curves(sweep(metric=metric, num_classes=classes), {"head": metric}).axes
    found = [line for line in axes.lines if line.get_label() == "chance"]
    assert [line.get_ydata()[0] for line in found] == ([] if chance is None else [pytest.approx(chance)])
    assert [text.get_text() for text in axes.texts] == ([] if chance is None else [f"chance\n{chance:.3g} %"])


def test_the_headline_is_drawn_and_nothing_else():
    other = Measurement(metric="top5", value=0.99, n=200)
    records = [
        ResultRecord(key=r.key, cell=r.cell, measurements=(other, *r.measurements))
        for r in sweep()
    ]  # fmt: skip
    assert draw_curves(records, HEADLINES).axes[0].get_ylabel() == "top1 (%)"
    assert draw_curves(records, {}).axes[0].get_ylabel() == "top5 (%)"


def test_a_level_that_takes_nothing_away_is_the_clean_point():
    records = sweep(values=((0.0, 0.0, 0.9), (0.5, 0.49, 0.4)))
    np.testing.assert_allclose(drawn(draw_curves(records, HEADLINES).axes[0])["vit"], [(0, 90), (49, 40)])


def test_without_a_clean_record_the_line_begins_at_its_first_level():
    found = drawn(draw_curves(sweep(clean=None), HEADLINES).axes[0])
    np.testing.assert_allclose(found["vit"], [(24, 70), (49, 40)])


def test_levels_may_come_in_any_order():
    records = sweep(values=((0.5, 0.49, 0.4), (0.25, 0.24, 0.7)))[::-1]
    np.testing.assert_allclose(drawn(draw_curves(records, HEADLINES).axes[0])["vit"], [(0, 90), (24, 70), (49, 40)])


def test_seeds_of_the_perturbation_are_averaged():
    records = [
        record(0.9),
        *(
            record(value, perturbation="drop", level=0.5, loss=loss, seed=seed, half=half)
            for seed, (value, loss, half) in enumerate([(0.5, 0.48, 0.1), (0.3, 0.5, 0.2)])
        ),
    ]
    figure = draw_curves(records, HEADLINES)
    np.testing.assert_allclose(drawn(figure.axes[0])["vit"], [(0, 90), (49, 40)])
    assert bands(figure.axes[0])["vit"] == [(0, 80, 95), (49, 25, 47.5)]
    assert "averaged over up to 2 seeds" in " ".join(texts(figure)[0].split())
    assert "averaged" not in texts(draw_curves(records[:2], HEADLINES))[0]


def test_what_differs_in_more_than_a_seed_is_never_averaged():
    records = [*sweep(), *sweep(clean=0.6, view="crop=32")]
    found = drawn(draw_curves(records, HEADLINES).axes[0])
    assert list(found) == ["vit view=crop=16", "vit view=crop=32"]
    assert [points[0, 1] for points in found.values()] == [pytest.approx(90), pytest.approx(60)]


def test_losses_of_all_panels_share_an_axis():
    records = [*sweep(), *sweep(clean=None, perturbation="cut", values=((0.5, 0.1, 0.8), (0.9, 0.2, 0.6)))]
    assert len({axes.get_xlim() for axes in draw_curves(records, HEADLINES).axes}) == 1


# --- panels, lines and their styles


def test_rows_of_a_probe_and_perturbations_are_panels():
    rows = [({"shots": 1}, 0.3), ({"shots": 5}, 0.6)]
    records = [
        record(probe="fewshot", metric="accuracy", rows=rows, perturbation=name, level=level, loss=level)
        for name, level in [("none", None), ("drop", 0.5), ("cut", 0.5)]
    ]
    figure = draw_curves(records, HEADLINES)
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes] == [
        f"fewshot (shots = {shots}) on digits/test under {name}" for shots in (1, 5) for name in ("drop", "cut")
    ]
    assert [drawn(axes)["vit"][0, 1] for axes in figure.axes] == [pytest.approx(y) for y in (30, 30, 60, 60)]
    assert entries(figure) == ["vit"]


def test_heads_of_a_model_are_lines_beside_models_with_one_head():
    rows = [({"head": "cls"}, 0.6), ({"head": "dist"}, 0.7)]
    records = [
        record(model=model, rows=given, perturbation=name, level=level, loss=level)
        for model, given in [("vit", [({}, 0.5)]), ("deit", rows)]
        for name, level in [("none", None), ("drop", 0.5)]
    ]
    figure = draw_curves(records, HEADLINES)
    assert list(drawn(figure.axes[0])) == ["vit", "deit head=cls", "deit head=dist"]


def test_untrained_models_are_marked():
    figure = draw_curves([*sweep("vit", weights="random:vit:0"), *sweep("cnn")], HEADLINES)
    assert entries(figure) == ["vit (untrained)", "cnn"]
    assert list(drawn(figure.axes[0])) == ["vit (untrained)", "cnn"]


def test_a_model_looks_the_same_on_all_panels_and_unlike_any_other():
    models = [f"m{i}" for i in range(20)]
    records = [r for name in ("drop", "cut") for model in models for r in sweep(model, perturbation=name, clean=None)]
    figure = draw_curves(records, HEADLINES)
    looks = [
        {line.get_label(): (to_rgb(line.get_color()), line.get_marker()) for line in axes.lines} for axes in figure.axes
    ]
    assert looks[0] == looks[1]
    assert len(set(looks[0].values())) == len(looks[0]) == 21


def test_supports_are_lines_in_the_colour_of_their_model():
    records = [
        r
        for model in ("vit", "cnn")
        for support in ("drop", "none")
        for r in sweep(model, support=support, probe="fewshot", metric="accuracy")
    ]
    figure = draw_curves(records, HEADLINES)
    assert entries(figure) == ["vit, support under drop@0.5", "vit", "cnn, support under drop@0.5", "cnn"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["vit"].get_color() == lines["vit, support under drop@0.5"].get_color() != lines["cnn"].get_color()
    assert lines["vit"].get_linestyle() == lines["cnn"].get_linestyle() == "-"
    assert lines["vit, support under drop@0.5"].get_linestyle() != "-"


def test_one_perturbation_with_other_parameters_is_another_panel():
    records = [r for grid in (7, 14) for r in sweep(params={"perturbation": {"grid": grid}}, clean=None)]
    titles = [axes.get_title(loc="left").splitlines()[1] for axes in draw_curves(records, HEADLINES).axes]
    assert titles == ["under drop:grid=7", "under drop:grid=14"]


def test_limits_and_precisions_are_panels_of_their_own():
    records = [*sweep(), *sweep(limit=20), *sweep(precision="bf16")]
    titles = [axes.get_title(loc="left").splitlines()[0] for axes in draw_curves(records, HEADLINES).axes]
    assert titles == [
        "head on digits/test, all images, fp32",
        "head on digits/test, limit 20, fp32",
        "head on digits/test, all images, bf16",
    ]


def test_notes_say_over_how_many_images():
    assert texts(draw_curves(sweep(limit=20, n=20), HEADLINES)) == [
        "bands: 95 % intervals (wilson95); 20 images (limit 20 of the split)"
    ]
    mixed = [*sweep(), *sweep("cnn", n=199, interval="bootstrap95"), *sweep(split="val", n=50)]
    assert " ".join(texts(draw_curves(mixed, HEADLINES))[0].split()) == (
        "bands: 95 % intervals (bootstrap95, wilson95); 199 to 200 images of digits/test; 50 images of digits/val"
    )


def test_numbers_that_are_no_fractions_keep_their_unit_and_range():
    (axes,) = draw_curves(sweep(metric="distance", unit="px", higher=False, clean=12.0), {}).axes
    assert axes.get_ylabel() == "distance (px), lower is better"
    np.testing.assert_allclose(drawn(axes)["vit"], [(0, 12), (24, 0.7), (49, 0.4)])
    assert axes.get_ylim()[1] < 20


def test_fractions_that_leave_their_range_are_shown_all_the_same():
    (axes,) = draw_curves(sweep(metric="gain", values=((0.5, 0.49, -0.3),), clean=1.2), {}).axes
    assert axes.get_ylim() == (pytest.approx(-40), pytest.approx(125))


# --- curves over levels


def test_where_one_record_has_no_loss_the_level_is_the_axis():
    records = [*sweep(), *sweep("cnn", values=((0.25, None, 0.7), (0.5, 0.49, 0.4)))]
    (axes,) = draw_curves(records, HEADLINES).axes
    assert axes.get_xlabel() == "level"
    np.testing.assert_allclose(drawn(axes)["vit"], [(0.25, 70), (0.5, 40)])


def test_the_level_is_named_with_its_unit():
    records = [*leveled(), *leveled(perturbation="pgd", clean=None)]
    noise, pgd = draw_curves(records, HEADLINES, {"noise": SEVERITY, "pgd": EPS}).axes
    assert (noise.get_xlabel(), pgd.get_xlabel()) == ("severity", "eps_255 (1/255)")


def test_the_clean_point_stands_at_the_level_that_changes_nothing_or_else_beside_the_levels():
    records = [*leveled(), *leveled(perturbation="pgd", clean=None)]
    figure = draw_curves(records, HEADLINES, {"noise": SEVERITY, "pgd": EPS})
    noise, pgd = figure.axes
    np.testing.assert_allclose(drawn(pgd)["vit"], [(0, 90), (1, 70), (3, 40), (5, 20)])
    np.testing.assert_allclose(drawn(noise)["vit"], [(1, 70), (3, 40), (5, 20)])
    ((x, y),) = drawn(noise)["vit, clean"]
    assert x < 1
    assert y == pytest.approx(90)
    assert ticks(noise.xaxis) == ["clean", "1", "3", "5"]
    assert noise.get_xticks()[0] == pytest.approx(x)
    assert noise.get_xlim()[0] < x
    assert texts(figure)[0].startswith("bands and bars: ")


def test_levels_that_are_crowded_get_round_ticks():
    records = sweep(values=[(level, None, 0.5) for level in (0.25, 0.5, 1, 2, 4, 8)], perturbation="pgd")
    (axes,) = draw_curves(records, HEADLINES, {"pgd": EPS}).axes
    assert ticks(axes.xaxis) == ["0", "2", "4", "6", "8"]


def test_a_single_level_is_a_point_with_a_bar():
    figure = draw_curves(sweep(values=((3, None, 0.7),), clean=None), HEADLINES)
    np.testing.assert_allclose(drawn(figure.axes[0])["vit"], [(3, 70)])
    assert bands(figure.axes[0]) == {"vit": [(3, 60, 75)]}
    assert texts(figure)[0].startswith("bars: ")


# --- dots


def test_clean_numbers_alone_are_a_row_per_model():
    models = {"vit": 0.9, "cnn": 0.75, "mlp": 0.2}
    figure = draw_curves([record(value, model=model) for model, value in models.items()], HEADLINES)
    (axes,) = figure.axes
    assert {name: points.tolist() for name, points in drawn(axes).items()} == {
        name: [[pytest.approx(100 * value), row]] for row, (name, value) in enumerate(models.items())
    }
    bars = {c.get_label(): c.get_paths()[0].vertices for c in axes.collections}
    np.testing.assert_allclose(bars["cnn"], [(65, 1), (80, 1)])
    assert ticks(axes.yaxis) == list(models)
    assert axes.yaxis_inverted()
    assert (axes.get_xlabel(), axes.get_xlim()) == ("top1 (%)", (0, 100))
    assert axes.get_title(loc="left") == "head on digits/test\non clean images"
    assert [text.get_text() for text in axes.texts] == ["90.0", "75.0", "20.0", "chance 10 %"]
    assert figure.legends == []
    assert texts(figure) == ["bars: 95 % intervals (wilson95); 200 images"]


def test_perturbations_without_levels_are_rows_beside_the_clean_ones():
    records = [record(value, model=m, perturbation=p) for p, value in [("none", 0.9), ("shuffle", 0.4)] for m in "ab"]
    (axes,) = draw_curves(records, HEADLINES).axes
    assert ticks(axes.yaxis) == ["clean: a", "clean: b", "shuffle: a", "shuffle: b"]
    assert [line.get_xdata()[0] for line in axes.lines[:4]] == [pytest.approx(x) for x in (90, 90, 40, 40)]
    assert axes.get_title(loc="left").endswith("under perturbations without levels")


def test_a_swept_model_has_its_clean_number_beside_perturbations_without_levels_too():
    curve, dots = draw_curves([*sweep(), record(0.3, perturbation="shuffle")], HEADLINES).axes
    np.testing.assert_allclose(drawn(curve)["vit"][0], (0, 90))
    assert ticks(dots.yaxis) == ["clean: vit", "shuffle: vit"]


def test_a_model_without_a_sweep_has_its_clean_number_beside_the_curves_of_others():
    figure = draw_curves([*sweep("vit"), record(0.3, model="cnn")], HEADLINES)
    assert [list(drawn(axes)) for axes in figure.axes] == [["vit"], ["cnn"]]
    assert entries(figure) == ["vit"]


def test_seeds_of_a_perturbation_without_levels_are_averaged():
    records = [record(value, perturbation="shuffle", seed=seed) for seed, value in enumerate((0.4, 0.6))]
    (axes,) = draw_curves(records, HEADLINES).axes
    np.testing.assert_allclose(drawn(axes)["vit"], [(50, 0)])


# --- what cannot be drawn


def test_what_does_not_apply_is_left_out():
    refused = [r for given in sweep("cnn") for r in [record(model="cnn", not_applicable="no head", **_where(given))]]
    assert list(drawn(draw_curves([*refused, *sweep()], HEADLINES).axes[0])) == ["vit"]


def _where(given: ResultRecord) -> dict:
    return {name: given.cell[name] for name in ("perturbation", "level")}


@pytest.mark.parametrize("records", [[], [record(not_applicable="no head")]], ids=["no records", "no numbers"])
def test_nothing_to_draw_is_one_clear_error(records):
    with pytest.raises(UsageError, match="nothing to draw: no record has a number"):
        draw_curves(records, HEADLINES)


def test_more_panels_than_fit_are_refused_with_a_way_out():
    rows = [({"shots": shots}, 0.5) for shots in range(1, 5)]
    records = [
        record(probe="fewshot", metric="accuracy", rows=rows, perturbation=f"p{i}", level=0.5, loss=0.5)
        for i in range(4)
    ]
    assert len(draw_curves(records[:3], HEADLINES).axes) == MAX_PANELS == 12
    with pytest.raises(UsageError, match="at most 12 panels, this one would need 16") as refused:
        draw_curves(records, HEADLINES)
    assert "fewer perturbations" in refused.value.hint


def test_the_least_number_of_panels_is_known_from_cells():
    def least(records):
        return least_panels(r.cell for r in records)

    assert least([]) == 0
    assert least([record(), record(model="cnn")]) == 1
    assert least(sweep()) == 1
    assert least([*sweep(), *sweep(perturbation="cut"), *sweep(probe="fewshot")]) == 3
    assert least([*sweep(), record(perturbation="shuffle"), record(perturbation="flip")]) == 2
    assert least([*sweep(), *sweep(limit=20)]) == 2


# --- legibility


NAMES = ("vit", "_hidden", "a$b$c", "a_name_that_nobody_should_ever_have_to_type_by_hand_" * 2)
PICTURES = {
    "one": sweep(),
    "two": [*leveled(), *leveled(perturbation="cut")],
    "names": [r for model in NAMES for r in sweep(model)],
    "many lines": [r for i in range(30) for r in sweep(f"model_{i}")],
    "supports": [r for s in ("none", "a", "b") for r in sweep(support=f"salt_and_pepper_noise_{s}")],
    "long titles": [r for g in "ab" for r in sweep(params={"perturbation": {"grid": g, "model": "long" * 30 + g}})],
    "dots": [record(model=model * k) for model in NAMES for k in (1, 2)],
    "mixed": [*sweep(), record(model=NAMES[-1]), *(record(perturbation=f"p{i}") for i in range(20))],
    "twelve": [
        record(rows=[({"k": k}, 0.5) for k in range(4)], perturbation=name, level=level, loss=level, model=model)
        for name in ("drop", "cut", "swap")
        for level in (0.2, 0.9)
        for model in ("vit", "cnn")
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_covers_anything_else_or_leaves_the_page(name):
    figure = draw_curves(PICTURES[name], HEADLINES, {"noise": SEVERITY})
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes = [*panels, *(item.get_window_extent(renderer) for item in (*figure.legends, *figure.texts))]
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    for axes in figure.axes:
        labels = [label.get_window_extent(renderer) for label in axes.get_yticklabels()]
        assert not any(one.overlaps(other) for one, other in combinations(labels, 2))


def test_names_are_shown_as_they_are():
    figure = draw_curves(PICTURES["names"], HEADLINES)
    assert entries(figure) == ["vit", "_hidden", r"a\$b\$c", NAMES[-1]]
    # matplotlib before 3.10 leaves such entries out.
    assert not any(text.get_text().startswith("_") for text in figure.legends[0].get_texts())


def test_a_long_legend_has_many_lines_and_does_not_widen_the_picture():
    narrow, long = (draw_curves(PICTURES[name], HEADLINES) for name in ("one", "many lines"))
    assert long.get_figwidth() == narrow.get_figwidth()
    assert long.get_figheight() > narrow.get_figheight() + 0.5


# --- files


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")])
def test_the_ending_is_the_format(tmp_path, ending, start):
    path = tmp_path / f"curves{ending}"
    path.write_bytes(b"old")
    save_curves(sweep(), HEADLINES, path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")

    class Full:
        def savefig(self, place, format):
            place.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves, "draw_curves", lambda *given: Full())
    with pytest.raises(UsageError, match="No space left on device"):
        save_curves(sweep(), HEADLINES, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("curves.jpg", "must end in .png, .svg or .pdf, not 'curves.jpg'"),
        ("curves", "must end in"),
        ("folder.png", "is a folder"),
        ("elsewhere/curves.png", "there is no folder"),
        ("file/curves.png", "there is no folder"),
    ],
)
def test_a_place_that_cannot_hold_a_picture_is_refused(tmp_path, name, words):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=words):
        check_picture(tmp_path / name)
    with pytest.raises(UsageError, match=words):
        save_curves(sweep(), HEADLINES, tmp_path / name)


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UsageError, match="no picture can be written into"):
        check_picture(tmp_path / "curves.png")


def test_a_folder_that_the_run_makes_will_do(tmp_path):
    check_picture(tmp_path / "runs" / "curves.png", made=tmp_path / "runs")
    with pytest.raises(UsageError, match="there is no folder"):
        check_picture(tmp_path / "other" / "curves.png", made=tmp_path / "runs")


def test_drawing_is_light_to_import_and_leaves_matplotlib_as_it_is():
    code = (
        "import sys\n"
        "import harness.report.curves as curves\n"
        "assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
        "import matplotlib\n"
        "def params():\n"  # asking for the backend would import pyplot
        "    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != 'backend'}\n"
        "before = params()\n"
        "from harness.types import Measurement, ResultRecord\n"
        "part = {'use': 'none', 'version': 1, 'params': {}, 'fingerprint': 'f'}\n"
        "cell = dict(model='m', weights='w', dataset='d', split='s', limit=None, num_classes=2, support=None,\n"
        "            view='v', perturbation='none', level=None, probe='p', seeds={'perturb': None}, precision='fp32',\n"
        "            components={r: part for r in ('model', 'dataset', 'perturbation', 'probe')})\n"
        "row = Measurement(metric='top1', value=0.5, n=2)\n"
        "curves.draw_curves([ResultRecord(key='k', cell=cell, measurements=(row,))], {}).canvas.draw()\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
        "assert params() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_episodes_have_the_chance_of_their_ways_and_are_counted_as_such():
    record = ResultRecord(key="k", cell={"num_classes": 10})
    episodes = Measurement(metric="accuracy", value=0.5, n=600, dims={"ways": 5, "shots": 1}, counted="episodes")
    drawn = dataclasses.replace(episodes, dims={"sampler": "meta_dataset"})
    images = Measurement(metric="top5", value=0.5, n=1)
    assert chance_of(record, episodes) == Fraction(1, 5)
    assert chance_of(record, drawn) is None
    assert chance_of(record, images) == Fraction(1, 2)
    assert chance_of(record, dataclasses.replace(images, metric="map")) is None
    assert counted_text([episodes, images]) == "600 episodes and 1 image"
