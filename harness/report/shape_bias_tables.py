"""Shape bias of several observers as a table: each by itself, then humans and others pooled, and their means."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, TypeAlias

from harness.errors import DataError
from harness.report.shape_bias import System
from harness.report.tables import Table
from harness.shape_bias import mean_over_observers, pooled, shape_bias_measurements

if TYPE_CHECKING:
    from harness.decision_files import Observer
    from harness.shape_bias import CueCounts
    from harness.types import JSONValue, Measurement

HUMANS = "subject-[0-9]*"
"""What the subjects of published files that are humans are called."""

Kind: TypeAlias = Literal["observer", "pooled", "mean"]

_HEADER = (
    "observer", "by shape", "by texture", "shape bias %", "class mean %", "coverage %", "shape accuracy %",
    "accuracy %",
)  # fmt: skip
_CSV_HEADER = (
    "observer", "kind", "humans", "metric", "class", "value", "low", "high", "interval", "n", "counted", "unit",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is measured of one observer, or of several: ``counts`` are None for a mean over observers."""

    name: str
    kind: Kind
    humans: bool
    measurements: tuple[Measurement, ...]
    counts: CueCounts | None = None

    def get(self, metric: str) -> Measurement | None:
        """The one number of that metric, None where it is undefined."""
        return next((row for row in self.measurements if row.metric == metric and "class" not in row.dims), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeBiasStudy:
    """Observers, which of them are humans, and what was measured of each and of both groups."""

    observers: tuple[Observer, ...]
    rows: tuple[Row, ...]

    def systems(self) -> tuple[list[System], System | None]:
        """What a picture shows: every observer that is no human, and all humans as one; humans alone each, too."""
        of_kind = {
            humans: [
                System(label=row.name, counts=row.counts)
                for row in self.rows
                if row.counts is not None and row.humans == humans and row.kind == "observer"
            ]
            for humans in (False, True)
        }
        together = next((row for row in self.rows if row.humans and row.kind == "pooled"), None)
        if together is None or together.counts is None:
            reference = of_kind[True][0] if of_kind[True] else None
            return of_kind[False], reference
        return of_kind[False] or of_kind[True], System(label=together.name, counts=together.counts)

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for ``--json``."""
        files = {observer.name: [str(path) for path in observer.files] for observer in self.observers}
        subjects = {observer.name: list(observer.subjects) for observer in self.observers}
        return {
            "classes": list(self.observers[0].decisions.classes),
            "rows": [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "humans": row.humans,
                    **({"subjects": subjects[row.name], "files": files[row.name]} if row.kind == "observer" else {}),
                    **({} if row.counts is None else _counts(row.counts)),
                    "measurements": [measurement.as_dict() for measurement in row.measurements],
                }
                for row in self.rows
            ],
        }

    def as_csv(self) -> str:
        """Every number in full, a line each."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_CSV_HEADER)
        for row in self.rows:
            for m in row.measurements:
                ends = [None if end is None else repr(end) for end in (m.value, m.low, m.high)]
                told = [m.metric, m.dims.get("class"), *ends, m.interval, m.n, m.counted, m.unit]
                writer.writerow([row.name, row.kind, int(row.humans), *told])
        return text.getvalue()

    def table(self) -> Table:
        """A line per observer, then of humans and of others what they amount to together."""
        return Table(
            title="shape bias: decisions by shape, of those by shape or by texture, on images whose cues conflict",
            header=_HEADER,
            rows=tuple(_line(row) for row in self.rows),
            notes=tuple(_notes(self.rows)),
        )


def study(observers: Sequence[Observer], *, humans: str = HUMANS) -> ShapeBiasStudy:
    """Measure ``observers``, and together those that are humans and those that are not, where there are several.

    ``humans`` is a pattern (``*``, ``?``, ``[...]``, in any case) of what all subjects of a human observer are called.
    Raises :class:`~harness.errors.DataError` for an observer that has decided on no image whose cues conflict.
    """
    rows: list[Row] = []
    groups: dict[bool, list[Observer]] = {True: [], False: []}
    for observer in observers:
        human = all(fnmatchcase(subject.lower(), humans.lower()) for subject in observer.subjects)
        groups[human].append(observer)
        rows.append(_measured(observer, human))
    for human, members in groups.items():
        if len(members) > 1:
            rows += _together(members, human)
    return ShapeBiasStudy(observers=tuple(observers), rows=tuple(rows))


def _measured(observer: Observer, human: bool) -> Row:
    try:
        measurements = tuple(shape_bias_measurements(observer.decisions))
    except DataError as error:
        raise DataError(f"{observer.name}: {error.message}", hint=None) from error
    counts = observer.decisions.counts()
    return Row(name=observer.name, kind="observer", humans=human, measurements=measurements, counts=counts)


def _together(members: Sequence[Observer], human: bool) -> list[Row]:
    who = f"{len(members)} {'humans' if human else 'observers'}"
    parts = [member.decisions for member in members]
    whole = pooled(parts)
    return [
        Row(
            name=f"{who}, pooled",
            kind="pooled",
            humans=human,
            measurements=tuple(shape_bias_measurements(whole)),
            counts=whole.counts(),
        ),
        Row(name=f"{who}, mean", kind="mean", humans=human, measurements=tuple(mean_over_observers(parts))),
    ]


def _counts(counts: CueCounts) -> dict[str, JSONValue]:
    return {
        "conflict_images": sum(counts.conflict),
        "agreeing_images": counts.agreeing,
        "classes_without_decisions": list(counts.lacking),
    }


def _line(row: Row) -> tuple[str, ...]:
    decided = [row.get(metric) for metric in ("shape_decisions", "texture_decisions")]
    numbers = [row.get(metric) for metric in ("shape_bias", "shape_bias_class_mean")]
    rest = [row.get(metric) for metric in ("coverage", "shape_accuracy", "accuracy")]
    return (
        row.name,
        *("" if found is None else f"{found.value:.0f}" for found in decided),
        *(_with_interval(found) for found in numbers),
        *("" if found is None else f"{100 * found.value:.1f}" for found in rest),
    )


def _with_interval(found: Measurement | None) -> str:
    """In percent, to the hundredths that published numbers have."""
    if found is None:
        return "undefined"
    text = f"{100 * found.value:.2f}"
    return (
        text if found.low is None or found.high is None else f"{text} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    )


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    observed = [(row, row.counts) for row in rows if row.kind == "observer" and row.counts is not None]
    sizes = list(dict.fromkeys((sum(counts.conflict), counts.agreeing) for _, counts in observed))
    if len(sizes) == 1:
        yield _sizes(*sizes[0])
    else:
        yield from (f"{row.name}: {_sizes(sum(counts.conflict), counts.agreeing)}" for row, counts in observed)
    for row, counts in observed:
        if counts.lacking and counts.bias is None:
            yield f"{row.name}: neither cue was named on any image, so that there is no bias"
        elif counts.lacking:
            kept = len(counts.classes) - len(counts.lacking)
            yield (
                f"{row.name}: class mean over {kept} of {len(counts.classes)} classes; nothing decided of "
                f"{', '.join(counts.lacking)}"
            )
    methods = {
        name: {m.interval for row in rows if row.kind in kinds and (m := row.get(metric)) is not None and m.interval}
        for name, metric, kinds in (
            ("shape bias", "shape_bias", ("observer", "pooled")),
            ("class mean", "shape_bias_class_mean", ("observer", "pooled")),
            ("means over observers", "shape_bias", ("mean",)),
        )
    }
    said = [f"{name} {' or '.join(sorted(map(str, found)))}" for name, found in methods.items() if found]
    if said:
        yield f"[low, high]: {', '.join(said)}"
    yield "coverage, shape accuracy: of the images in conflict; accuracy: shape named, of all images"
    if any(row.kind == "pooled" for row in rows):
        yield "pooled: every decision counts alike, and images are drawn with all that was decided on them"
        yield "mean: every observer counts alike, and the interval speaks of others like them"


def _sizes(conflict: int, agreeing: int) -> str:
    return f"{conflict} decisions on images in conflict; {agreeing} on images whose shape and texture agree left out"
