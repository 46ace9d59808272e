"""Shape bias by class, as the field draws it; a few images with what was named; and every decision, as published."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from harness.decision_files import COLUMNS, decision_rows
from harness.exhibits import Exhibit, Finding, Table
from harness.report.shape_bias import System, draw_shape_bias
from harness.shape_bias import NONE, CueDecisions
from harness_inspect.figures import COLOURS, GREY, LABEL_PT, TICK_PT, TITLE_PT, new_figure, plain, show_image
from harness_inspect.inspection import POSITIONS, SHOWN
from harness_inspect.shape_bias_probe import IMAGES, class_names, decisions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from matplotlib.figure import Figure

    from harness.types import JSONScalar, Measurement

T = TypeVar("T")

_SYSTEMS_PER_PICTURE = 12
_FINDINGS_PER_PICTURE = 5
_IMAGE_IN, _GAP_IN, _LINE_IN = 1.3, 0.15, 0.15
_CUE_COLOURS = {"shape": COLOURS[0], "texture": COLOURS[1], "neither": GREY, "both": "#000000"}
_METRICS = ("shape_bias", "shape_bias_class_mean", "coverage", "shape_accuracy", "accuracy")
_COUNTS = ("shape_decisions", "texture_decisions", "agreeing_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decided:
    """The decisions of one head of one finding; ``head`` is None for a model that has one."""

    finding: Finding
    head: JSONScalar
    decisions: CueDecisions

    @property
    def label(self) -> str:
        return self.finding.label if self.head is None else f"{self.finding.label}, {self.head}"

    def get(self, metric: str, **dims: JSONScalar) -> Measurement | None:
        """A number of the record, None where it is undefined."""
        wanted = dims if self.head is None else {**dims, "head": self.head}
        found = (row for row in self.finding.record.measurements if row.metric == metric)
        return next((row for row in found if wanted.items() <= row.dims.items()), None)


def exhibit(findings: Sequence[Finding]) -> Exhibit:
    """Points of every class and lines of every model, 12 heads of models to a picture; and the images shown.

    Tables: what is measured (unnamed), by class (``classes``), and the decisions of each in the published format
    (``decisions``), which ``harness shape-bias`` reads.
    """
    decided = [found for finding in findings for found in _of_heads(finding)]
    cell = findings[0].record.cell
    title = f"shape bias on {cell['dataset']}/{cell['split']}"
    pictures: dict[str, Figure] = {}
    models = [found.finding.model for found in decided]
    for number, page in enumerate(_pages(decided, models, _SYSTEMS_PER_PICTURE), start=1):
        systems = [System(label=found.label, counts=found.decisions.counts()) for found in page]
        pictures["" if number == 1 else f"page{number}"] = draw_shape_bias(systems, title=title)
    models = [finding.model for finding in findings]
    for number, members in enumerate(_pages(findings, models, _FINDINGS_PER_PICTURE), start=1):
        pictures["images" if number == 1 else f"images-page{number}"] = _images(members)
    tables = {"": _numbers(decided), "classes": _by_class(decided)}
    tables |= {name: _decisions(found) for name, found in zip(_table_names(decided), decided, strict=True)}
    return Exhibit(pictures=pictures, tables=tables)


def _of_heads(finding: Finding) -> Iterator[_Decided]:
    assert finding.outcomes is not None
    classes = class_names(finding.arrays)
    for variant, dims in enumerate(finding.outcomes.variants):
        decisions = decisions_of(finding.outcomes, variant, classes)
        yield _Decided(finding=finding, head=dims.get("head"), decisions=decisions)


def _pages(items: Sequence[T], models: Sequence[str], most: int) -> Iterator[list[T]]:
    """Parts of at most ``most`` items, in order; a model's stay together where they can."""
    page: list[T] = []
    for _, members in itertools.groupby(zip(models, items, strict=True), key=lambda pair: pair[0]):
        own = [item for _, item in members]
        if page and len(page) + len(own) > most:
            yield page
            page = []
        for item in own:
            if len(page) == most:
                yield page
                page = []
            page.append(item)
    yield page


# --- images ----------------------------------------------------------------------------------------------------


def _images(findings: Sequence[Finding]) -> Figure:
    """A row per finding: images, what they show above, and below what each head named."""
    rows = [list(_pictures(finding)) for finding in findings]
    figure = new_figure(1, 1)
    figure.set_layout_engine("none")
    below = max(len(picture.said) for row in rows for picture in row)
    lines = [line for row in rows for picture in row for line in (*picture.shows, *(text for text, _ in picture.said))]
    cell = max(_IMAGE_IN, *(_width_in(figure, line) for line in lines)) + _GAP_IN
    row_in = _IMAGE_IN + (4.8 + below) * _LINE_IN + _GAP_IN
    names = [_width_in(figure, finding.label, LABEL_PT) for finding in findings]
    width = max(cell * max(map(len, rows)), *names, 3.0) + _GAP_IN
    height = row_in * len(rows) + 0.45
    figure.set_size_inches(width, height)
    figure.text(_GAP_IN / width, 1 - _GAP_IN / height, "what was named", fontsize=TITLE_PT, va="top")
    for number, (finding, row) in enumerate(zip(findings, rows, strict=True)):
        top = height - 0.45 - row_in * number
        figure.text(_GAP_IN / width, top / height, plain(finding.label), fontsize=LABEL_PT, va="top")
        for column, picture in enumerate(row):
            left, low = _GAP_IN + cell * column, top - 3.6 * _LINE_IN - _IMAGE_IN
            inset = (cell - _GAP_IN - _IMAGE_IN) / 2
            show_image(
                figure.add_axes(
                    ((left + inset) / width, low / height, _IMAGE_IN / width, _IMAGE_IN / height), anchor="C"
                ),
                picture.pixels,
                title="\n".join(picture.shows),
            )
            for line, (text, cue) in enumerate(picture.said):
                figure.text(
                    (left + (cell - _GAP_IN) / 2) / width,
                    (low - 0.05 - _LINE_IN * line) / height,
                    plain(text),
                    fontsize=TICK_PT,
                    color=_CUE_COLOURS[cue],
                    ha="center",
                    va="top",
                )
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """An image, the cues that it shows, and what each head named, with the cue that it followed."""

    pixels: npt.NDArray[np.uint8]
    shows: tuple[str, str]
    said: tuple[tuple[str, str], ...]


def _pictures(finding: Finding) -> Iterator[_Picture]:
    decided = list(_of_heads(finding))
    assert finding.outcomes is not None
    for position, pixels in zip(finding.arrays[POSITIONS].tolist(), finding.arrays[SHOWN + IMAGES], strict=True):
        place = int(np.searchsorted(finding.outcomes.positions, position))
        first = decided[0].decisions
        shape, texture = (
            "none" if values[place] == NONE else first.classes[values[place]] for values in (first.shape, first.texture)
        )
        said = []
        for found in decided:
            cue = _cue(found.decisions, place)
            head = "" if found.head is None else f"{found.head}: "
            said.append((f"{head}{first.classes[int(found.decisions.named[place])]} ({cue})", cue))
        yield _Picture(pixels=pixels, shows=(f"shape: {shape}", f"texture: {texture}"), said=tuple(said))


def _width_in(figure: Figure, text: str, size_pt: float = TICK_PT) -> float:
    """Inches that a line of text takes."""
    drawn = figure.text(0, 0, plain(text), fontsize=size_pt)
    width = float(drawn.get_window_extent().width) / figure.dpi
    drawn.remove()
    return width


def _cue(decisions: CueDecisions, place: int) -> str:
    by_shape, by_texture = (
        decisions.named[place] == cue[place] != NONE for cue in (decisions.shape, decisions.texture)
    )
    if by_shape and by_texture:
        return "both"
    return "shape" if by_shape else "texture" if by_texture else "neither"


# --- tables ----------------------------------------------------------------------------------------------------


def _numbers(decided: Sequence[_Decided]) -> Table:
    ends = [end for metric in _METRICS for end in (metric, f"{metric}_low", f"{metric}_high")]
    rows: list[list[JSONScalar]] = []
    for found in decided:
        values: list[JSONScalar] = []
        for metric in _METRICS:
            number = found.get(metric)
            values += [None] * 3 if number is None else [number.value, number.low, number.high]
        counts = [found.get(metric) for metric in _COUNTS]
        values += [None if count is None else int(count.value) for count in counts]
        values.append(sum(found.decisions.counts().conflict))
        rows.append([found.finding.model, found.finding.condition, found.finding.level, found.head, *values])
    return Table(header=("model", "condition", "level", "head", *ends, *_COUNTS, "conflict_images"), rows=rows)


def _by_class(decided: Sequence[_Decided]) -> Table:
    rows: list[list[JSONScalar]] = []
    for found in decided:
        counts = found.decisions.counts()
        for place, name in enumerate(counts.classes):
            number = found.get("shape_bias_of_class", **{"class": name})
            bias = [None] * 3 if number is None else [number.value, number.low, number.high]
            told = [counts.shape[place], counts.texture[place], counts.conflict[place]]
            rows.append([found.finding.model, found.finding.condition, found.head, name, *told, *bias])
    header = ("model", "condition", "head", "class", "shape_decisions", "texture_decisions", "conflict_images")
    return Table(header=(*header, "shape_bias", "low", "high"), rows=rows)


def _decisions(found: _Decided) -> Table:
    return Table(header=COLUMNS, rows=decision_rows(found.label, found.decisions, found.finding.ids))


def _table_names(decided: Sequence[_Decided]) -> list[str]:
    """``decisions``, followed by whose they are where there are several."""
    if len(decided) == 1:
        return ["decisions"]
    names: list[str] = []
    for found in decided:
        name = f"decisions-{re.sub(r'[^A-Za-z0-9.=+@-]+', '_', found.label)}"
        # What is told apart by signs that no file name may hold.
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names
