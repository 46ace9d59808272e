"""Decisions on cue-conflict images as CSV files, in the format in which those of humans and networks are published."""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from harness.errors import DataError
from harness.label_maps import IMAGENET, find_label_map
from harness.naming import did_you_mean
from harness.shape_bias import NONE, CueDecisions

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.types import JSONScalar

COLUMNS = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
"""Of a published file, in their order; of these ``subj``, ``object_response``, ``category``, ``imagename`` are read."""

By: TypeAlias = Literal["subject", "file"]

_SUBJECT = ("subj", "subject")
_NEEDED = ("object_response", "category", "imagename")
_UNANSWERED = frozenset({"", "na", "n/a", "nan", "none", "null"})
_STIMULUS = re.compile(r"(?P<shape>.*?[^\d])(?P<i>\d+)-(?P<texture>.*?[^\d])(?P<j>\d+)(?P<ending>\.[A-Za-z]+)?")
_SHOWN = 3


def categories() -> tuple[str, ...]:
    """The 16 categories of the published stimuli, in the order of the label space ``imagenet16``."""
    found = find_label_map(IMAGENET, "imagenet16")
    assert found is not None
    return found.classes


def cues_of(name: str) -> tuple[str, str] | None:
    """Whose shape and whose texture a stimulus shows, by its file's name ``<shape><i>-<texture><j>.png``.

    ``name`` may be a path, and what stands in front of the last underscore is passed over, as published tables of
    decisions have it. None for a name of another form.

    >>> cues_of("0001_s5n_dnn_0_airplane_00_airplane1-bicycle2.png"), cues_of("IMG_2024.png")
    (('airplane', 'bicycle'), None)
    """
    found = _parsed(name)
    return None if found is None else (found["shape"], found["texture"])


def stimulus_of(name: str) -> str | None:
    """The stimulus that a file's name means, whatever stands around it: ``airplane1-bicycle2``; see :func:`cues_of`."""
    found = _parsed(name)
    return None if found is None else _stimulus(found)


def _stimulus(found: re.Match[str]) -> str:
    return "{shape}{i}-{texture}{j}".format(**found.groupdict())


def _parsed(name: str) -> re.Match[str] | None:
    return _STIMULUS.fullmatch(re.split(r"[/\\_]", name.strip())[-1])


# --- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """One subject's decisions, or those of one file: ``subjects`` and ``files`` they are of, in order of appearance.

    ``decisions`` say their images, numbered alike for all observers that were read together.
    """

    name: str
    subjects: tuple[str, ...]
    files: tuple[Path, ...]
    decisions: CueDecisions


@dataclass(frozen=True, slots=True)
class _Trial:
    path: Path
    line: int
    subject: str
    session: str
    stimulus: str
    shape: str
    texture: str
    response: str | None

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.line}"


def find_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Files of decisions, and CSV files of something else that were passed over: of a folder all CSV files below it.

    A file that is named itself is taken as it is. Raises :class:`~harness.errors.DataError` for a path that is not
    there, and for a folder without a file of decisions.
    """
    taken: dict[Path, None] = {}
    left_out: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file", hint="name CSV files of decisions, or a folder of them")
        if not path.is_dir():
            taken[path] = None
            continue
        below = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() == ".csv" and file.is_file() and not file.name.startswith(".")
        )
        found = [file for file in below if _has_decisions(file)]
        if not found:
            what = f"none of {len(below)} CSV files holds decisions" if below else "there are no CSV files"
            raise DataError(f"{path}: {what}", hint=f"their columns are {', '.join(COLUMNS)}")
        taken |= dict.fromkeys(found)
        left_out += [file for file in below if file not in taken]
    return list(taken), left_out


def read_decisions(files: Sequence[Path], *, classes: Sequence[str] = (), by: By = "subject") -> list[Observer]:
    """The observers whose decisions ``files`` hold, in order of appearance: a subject each, or a file each.

    A line is a trial: ``subj`` (or ``subject``) names who decided, ``category`` the class of the shape, ``imagename``
    that of the texture as well, and ``object_response`` what was named: one of ``classes``, or nothing (``na``,
    ``NaN``, empty). Columns may stand in any order, beside others. Where ``classes`` are not given they are the 16
    published ones; for images that show none of these, the classes of all the images. Several files, and several
    sessions, may be of one subject.

    Raises :class:`~harness.errors.DataError`, with file and line, for anything that can't be what was meant: a missing
    column, an image whose name is no stimulus' or contradicts the category, a class that is none, a decision on one
    image twice in a session.
    """
    trials = [trial for path in files for trial in _trials(path)]
    names = tuple(classes) or _classes(trials)
    numbers = {name: number for number, name in enumerate(names)}
    # In their own order, so that what is drawn from them does not depend on who came first.
    images = {name: number for number, name in enumerate(sorted({trial.stimulus for trial in trials}))}
    groups: dict[str, list[_Trial]] = {}
    labels = _file_labels(files)
    for trial in trials:
        _check_classes(trial, numbers, given=bool(classes))
        groups.setdefault(trial.subject if by == "subject" else labels[trial.path], []).append(trial)
    return [_observer(name, members, names, numbers, images) for name, members in groups.items()]


def _observer(
    name: str, trials: Sequence[_Trial], classes: tuple[str, ...], numbers: dict[str, int], images: dict[str, int]
) -> Observer:
    first: dict[tuple[str, str, str], _Trial] = {}
    for trial in trials:
        other = first.setdefault((trial.subject, trial.session, trial.stimulus), trial)
        if other is not trial:
            raise DataError(
                f"{trial.place}: in session {trial.session}, {trial.subject} has decided on {trial.stimulus} already, "
                f"in {f'line {other.line}' if other.path == trial.path else other.place}",
                hint="is a file given twice, or are two networks called alike? --by file tells files apart",
            )

    def column(values: Iterable[str | None]) -> npt.NDArray[np.int64]:
        return np.array([NONE if value is None else numbers[value] for value in values], dtype=np.int64)

    return Observer(
        name=name,
        subjects=tuple(dict.fromkeys(trial.subject for trial in trials)),
        files=tuple(dict.fromkeys(trial.path for trial in trials)),
        decisions=CueDecisions(
            classes=classes,
            shape=column(trial.shape for trial in trials),
            texture=column(trial.texture for trial in trials),
            named=column(trial.response for trial in trials),
            images=np.array([images[trial.stimulus] for trial in trials], dtype=np.int64),
        ),
    )


def _trials(path: Path) -> Iterator[_Trial]:
    lines = _lines(path)
    _, header = next(lines)
    places = _places(path, header)
    found = False
    for line, values in lines:
        found = True
        if len(values) != len(header):
            raise DataError(f"{path}, line {line}: {len(values)} fields, expected {len(header)}")
        yield _trial(path, line, {name: values[place] for name, place in places.items()})
    if not found:
        raise DataError(f"{path}: holds no decisions", hint="one line per trial, after the line that names the columns")


def _trial(path: Path, line: int, fields: dict[str, str]) -> _Trial:
    image, category, response = fields["imagename"], fields["category"], fields["object_response"]
    where = f"{path}, line {line}"
    if not fields["subject"]:
        raise DataError(f"{where}: nothing says whose decision this is", hint="fill the column subj")
    parsed = _parsed(image)
    if parsed is None:
        raise DataError(
            f"{where}: the image's name {image!r} does not say what it shows",
            hint="stimuli are called SHAPE1-TEXTURE2.png, such as airplane1-bicycle2.png",
        )
    if parsed["shape"] != category:
        raise DataError(
            f"{where}: category {category or 'empty'}, but the shape of {_stimulus(parsed)} is {parsed['shape']}",
            hint="category is the class of the shape, which the image's name begins with",
        )
    return _Trial(
        path=path,
        line=line,
        subject=fields["subject"],
        session=fields.get("session") or "1",
        stimulus=_stimulus(parsed),
        shape=parsed["shape"],
        texture=parsed["texture"],
        response=None if response.lower() in _UNANSWERED else response,
    )


def _classes(trials: Sequence[_Trial]) -> tuple[str, ...]:
    """The 16 categories, or the classes of the images where these are of no category at all."""
    known = categories()
    shown = list(dict.fromkeys(name for trial in trials for name in (trial.shape, trial.texture)))
    return known if any(name in known for name in shown) else tuple(shown)


def _check_classes(trial: _Trial, numbers: dict[str, int], *, given: bool) -> None:
    told = {"shape": trial.shape, "texture": trial.texture, "response": trial.response}
    for what, name in told.items():
        if name is not None and name not in numbers:
            published = tuple(numbers) == categories()
            kind = "one of the 16 categories" if published and not given else f"one of the {len(numbers)} classes"
            raise DataError(
                f"{trial.place}: the {what} is {name!r}, which is not {kind}",
                hint=did_you_mean(name, numbers)
                or f"they are {', '.join(numbers)}; --classes names others, and na stands for no answer",
            )


def _places(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Where the columns are that are read."""
    names = [name.lower() for name in header]
    subject = next((name for name in _SUBJECT if name in names), None)
    lacking = [*(() if subject else ("subj",)), *(name for name in _NEEDED if name not in names)]
    if lacking:
        hint = f"files of decisions have the columns {', '.join(COLUMNS)}"
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            hint = "separate the columns by commas"
        columns = ", ".join(name for name in header if name) or "without names"
        missing = f"no column {lacking[0]}" if len(lacking) == 1 else f"no columns {', '.join(lacking)}"
        raise DataError(f"{path}: {missing}; the columns are {columns}", hint=hint)
    wanted = {"subject": subject or "", **{name: name for name in (*_NEEDED, "session") if name in names}}
    if twice := [name for name in wanted.values() if names.count(name) > 1]:
        raise DataError(f"{path}: two columns are called {twice[0]}", hint="remove or rename one")
    return {what: names.index(name) for what, name in wanted.items()}


def _lines(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Number and fields of every line that is not blank, the header's first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            empty = True
            for values in reader:
                if any(map(str.strip, values)):
                    empty = False
                    yield reader.line_num, [value.strip() for value in values]
            if empty:
                raise DataError(f"{path}: the file is empty", hint=f"its columns would be {', '.join(COLUMNS)}")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})", hint="is it a file, and may it be read?"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})", hint="save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV file ({error})", hint="save it as comma-separated text") from error


def _has_decisions(path: Path) -> bool:
    try:
        with closing(_lines(path)) as lines:
            _places(path, next(lines)[1])
    except DataError:
        return False
    return True


def _file_labels(files: Sequence[Path]) -> dict[Path, str]:
    """The name of every file without its ending, with folders where names are alike."""
    stems = [path.stem for path in files]
    return {path: path.stem if stems.count(path.stem) == 1 else str(path.with_suffix("")) for path in files}


# --- writing ---------------------------------------------------------------------------------------------------


def decision_rows(subject: str, decisions: CueDecisions, ids: Sequence[str]) -> list[list[JSONScalar]]:
    """The decisions of ``subject`` as rows of :data:`COLUMNS`; ``ids``: N names of the images.

    An image keeps the name of its file where that says its cues; others are numbered, as in
    ``cat12-elephant12.png``. Images without a shape or a texture are left out, since no name can say so. Classes are
    written as :func:`written_classes` says. Reading the rows again gives the same counts.
    """
    names = written_classes(decisions.classes)
    rows: list[list[JSONScalar]] = []
    kept = np.flatnonzero((decisions.shape != NONE) & (decisions.texture != NONE)).tolist()
    cues = {place: (names[decisions.shape[place]], names[decisions.texture[place]]) for place in kept}
    stimuli = [stimulus_of(ids[place]) for place in kept if cues_of(ids[place]) == cues[place]]
    as_named = len(set(stimuli)) == len(kept)
    for trial, place in enumerate(kept, start=1):
        shape, texture = cues[place]
        named = int(decisions.named[place])
        file = re.split(r"[/\\_]", ids[place])[-1] if as_named else f"{shape}{place + 1}-{texture}{place + 1}.png"
        # The published prefix: trial, experiment, kind of observer, condition, category, nothing.
        image = f"{trial:04d}_s5n_dnn_0_{shape}_00_{file}"
        rows.append([subject, 1, trial, "NaN", "na" if named == NONE else names[named], shape, 0, image])
    return rows


def written_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as file names of stimuli can hold them.

    That is without underscores, slashes, and hyphens behind digits, and with a full stop behind a digit at the end.
    Raises :class:`~harness.errors.DataError` where names are then alike, or empty.

    >>> written_classes(["cat", "class 1", "traffic_light"])
    ('cat', 'class 1.', 'traffic light')
    """
    found = [re.sub(r"(?<=\d)-", " ", re.sub(r"[_/\\]", " ", name)).strip() for name in classes]
    found = [f"{name}." if name[-1:].isdigit() else name for name in found]
    alike = [name for name, written in zip(classes, found, strict=True) if found.count(written) > 1 or not written]
    if alike:
        raise DataError(f"files of decisions cannot tell these classes apart: {', '.join(map(repr, alike[:_SHOWN]))}")
    return tuple(found)
