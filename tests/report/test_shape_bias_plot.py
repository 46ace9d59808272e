"""The picture of shape bias by class: what is drawn is what was counted, and a reader is told what it is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from harness.decision_files import categories
from harness.errors import UsageError
from harness.report.shape_bias import System, draw_shape_bias, save_shape_bias
from harness.shape_bias import CueCounts

HUMAN_RED = "#b2182b"


def counts(shape, texture, *, classes=None, conflict=None, agreeing=0):
    names = classes or tuple(f"class {chr(97 + i)}" for i in range(len(shape)))
    return CueCounts(
        classes=names,
        shape=tuple(shape),
        texture=tuple(texture),
        conflict=tuple(conflict or (s + t + 1 for s, t in zip(shape, texture, strict=True))),
        agreeing=agreeing,
    )


def system(label="net", shape=(3, 0, 1), texture=(1, 4, 0), **given):
    return System(label=label, counts=counts(shape, texture, **given))


def entries(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def points(figure, entry):
    """(x, y) of the points of the classes of a system."""
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == entry]
    return line.get_xydata()


def averages(figure):
    """Where vertical lines stand, by colour; that at one half apart."""
    (axes,) = figure.axes
    return {
        to_hex(line.get_color()): line.get_xdata()[0]
        for line in axes.lines
        if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    }


def texts(figure):
    return "\n".join(text.get_text() for text in figure.texts)


def many(n):
    drawn = np.random.default_rng(0)
    return [
        system(
            f"model_{i} (a rather long name), patchdrop_random@0.{i}",
            drawn.integers(1, 30, 16).tolist(),
            drawn.integers(1, 30, 16).tolist(),
            classes=categories(),
        )
        for i in range(n)
    ]


def test_points_are_the_texture_shares_of_the_classes_from_the_top():
    figure = draw_shape_bias([system()])
    (axes,) = figure.axes
    (entry,) = entries(figure)
    assert points(figure, entry).tolist() == [[1 / 4, 0], [1, 1], [0, 2]]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["class a", "class b", "class c"]
    assert axes.get_xlabel() == "share of decisions by texture"
    (above,) = axes.child_axes
    assert above.get_xlabel() == "share of decisions by shape"
    below = dict(zip(axes.get_xticks(), (t.get_text() for t in axes.get_xticklabels()), strict=True))
    top = dict(zip(above.get_xticks(), (t.get_text() for t in above.get_xticklabels()), strict=True))
    assert all(float(text) == pytest.approx(place) for place, text in below.items())
    assert all(float(text) == pytest.approx(1 - place) for place, text in top.items())


@pytest.mark.parametrize(
    ("average", "place", "said"),
    [("pooled", 1 - 4 / 9, "all decisions"), ("class_mean", 1 - 1.75 / 3, "the mean over")],
)
def test_the_line_stands_at_the_average_asked_for(average, place, said):
    figure = draw_shape_bias([system()], average=average)
    assert list(averages(figure).values()) == [pytest.approx(place)]
    assert f"lines: {said}" in texts(figure)
    assert entries(figure) == [f"net\n{100 * (1 - place):.1f} % shape, 9 of 12 decided"]


def test_humans_are_red_circles_below_the_models_in_the_legend():
    figure = draw_shape_bias([system("a"), system("b", (1, 1, 1), (1, 1, 1))], humans=system("10 humans", (9, 9, 9)))
    (axes,) = figure.axes
    assert [entry.split("\n")[0] for entry in entries(figure)] == ["a", "b", "10 humans"]
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("10 humans")]
    assert (to_hex(line.get_color()), line.get_marker()) == (HUMAN_RED, "o")
    assert averages(figure)[HUMAN_RED] == pytest.approx(1 - 27 / 32)


def test_systems_differ_in_colour_or_marker_and_none_is_dressed_as_humans():
    figure = draw_shape_bias(many(42))
    (axes,) = figure.axes
    dressed = [(to_hex(line.get_color()), line.get_marker()) for line in axes.lines if "\n" in str(line.get_label())]
    assert len(set(dressed)) == 42
    assert not any(colour == HUMAN_RED or marker == "o" for colour, marker in dressed)


def test_points_of_several_systems_are_spread_within_their_row():
    figure = draw_shape_bias(many(12))
    rows = np.array([points(figure, entry)[:, 1] for entry in entries(figure)])
    assert (np.diff(rows, axis=0) > 0).all()
    assert (np.abs(rows - np.arange(16)) < 0.5).all()


@pytest.mark.parametrize("n", [1, 4, 12, 30])
def test_nothing_lies_outside_the_picture_or_on_something_else(n):
    figure = draw_shape_bias(many(n), humans=many(1)[0], title="shape bias on cue_conflict/all")
    figure.canvas.draw()
    (legend,), (axes,) = figure.legends, figure.axes
    page = figure.bbox
    boxes = {
        "legend": legend.get_window_extent(),
        "axes": axes.get_tightbbox(),
        **{text.get_text(): text.get_window_extent() for text in figure.texts},
    }
    for name, box in boxes.items():
        assert page.x0 <= box.x0 < box.x1 <= page.x1, name
        assert page.y0 <= box.y0 < box.y1 <= page.y1, name
    names = list(boxes)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not boxes[first].overlaps(boxes[second]), (first, second)


def test_classes_and_systems_of_which_nothing_was_decided():
    figure = draw_shape_bias([system("some", (2, 0, 1), (0, 0, 1)), system("none", (0, 0, 0), (0, 0, 0))])
    some, none = entries(figure)
    assert none == "none\n0 of 3 decided"
    assert len(points(figure, some)) == 2
    assert len(points(figure, none)) == 0
    assert len(averages(figure)) == 1
    assert "a class without a point: nothing was decided of its images" in texts(figure)
    assert "without a point" not in texts(draw_shape_bias([system()]))


def test_names_are_shown_as_they_are():
    figure = draw_shape_bias([system("_cost $5$")], title="a $b$")
    assert entries(figure)[0].strip("\u200a").startswith(r"_cost \$5\$")
    figure.canvas.draw()


def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="no decisions to draw"):
        draw_shape_bias([])
    with pytest.raises(UsageError, match="over different classes"):
        draw_shape_bias([system(), system("b", (1, 1), (1, 1))])


@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_files(tmp_path, ending, start):
    path = tmp_path / f"bias{ending}"
    path.write_text("old")
    save_shape_bias([system()], path, humans=system("humans"))
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_places_that_cannot_be_written_to(tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.png"):
        save_shape_bias([system()], tmp_path / "bias.bmp")
    with pytest.raises(UsageError, match="there is no folder"):
        save_shape_bias([system()], tmp_path / "nowhere" / "bias.png")


def test_pyplot_is_left_alone():
    code = (
        "import sys\n"
        "from harness.report.shape_bias import System, draw_shape_bias\n"
        "from harness.shape_bias import CueCounts\n"
        "assert 'matplotlib' not in sys.modules\n"
        "counts = CueCounts(classes=('a', 'b'), shape=(1, 2), texture=(2, 1), conflict=(3, 3))\n"
        "draw_shape_bias([System(label='net', counts=counts)])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
