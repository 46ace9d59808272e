"""``harness shape-bias``: the shape bias of published or own decisions on cue-conflict images; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import json_option, print_json
from harness.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.decision_files import By
    from harness.report.shape_bias import Average
    from harness.report.shape_bias_tables import ShapeBiasStudy

_SHOWN = 3


@click.command("shape-bias")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw it by class, into a PNG, SVG or PDF."
)
@click.option("--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="Write every number as CSV.")
@click.option(
    "--by",
    type=click.Choice(["subject", "file"]),
    default="subject",
    show_default=True,
    help="What makes an observer: decisions of one subject, or those of one file.",
)
@click.option(
    "--humans",
    metavar="PATTERN",
    help="Subjects that are humans, the reference of a picture; by default those called subject-01 and so on.",
)
@click.option(
    "--classes",
    metavar="NAME,NAME...",
    help="The classes, where they are neither the 16 published ones nor all that the images' names hold.",
)
@click.option(
    "--average",
    type=click.Choice(["pooled", "class-mean"]),
    default="pooled",
    show_default=True,
    help="What the lines of the picture stand for: all decisions, or the mean over the classes.",
)
@json_option
def shape_bias(
    files: tuple[Path, ...],
    plot: Path | None,
    table: Path | None,
    by: By,
    humans: str | None,
    classes: str | None,
    average: str,
    as_json: bool,
) -> None:
    """Measure the shape bias of decisions on cue-conflict images, from files of the published format.

    FILE is a CSV file with a line per decision, or a folder of them: columns subj, object_response, category (the
    class of the shape) and imagename (SHAPE1-TEXTURE2.png), as published for humans and networks, and as the probe
    shape_bias writes them among the artifacts of a run. Several files may be of one subject. Images whose shape and
    texture are of one class are left out; answers that name neither cue count in the coverage alone.

    \b
      harness shape-bias raw-data/
      harness shape-bias raw-data/ runs/artifacts/shape_bias --plot bias.png
      harness shape-bias alexnet.csv vgg.csv --by file --json
      harness shape-bias answers/ --humans 'observer_*' --csv numbers.csv
    """
    found, passed_over = _measured(files, by=by, humans=humans, classes=classes, plot=plot)
    if as_json:
        print_json(found.as_dict())
    else:
        from harness.report.terminal import show

        show(found.table())
    if passed_over:
        shown = ", ".join(map(str, passed_over[:_SHOWN])) + (", ..." if len(passed_over) > _SHOWN else "")
        click.echo(f"passed over, since they hold no decisions ({len(passed_over)}): {shown}", err=True)
    if plot is not None:
        _draw(found, plot, average="pooled" if average == "pooled" else "class_mean")
        click.echo(f"picture: {plot}", err=True)
    if table is not None:
        from harness.run_folder import write_text

        write_text(table, found.as_csv())
        click.echo(f"numbers: {table}", err=True)


def _measured(
    files: Sequence[Path], *, by: By, humans: str | None, classes: str | None, plot: Path | None
) -> tuple[ShapeBiasStudy, list[Path]]:
    """The study of all decisions, and the CSV files in folders that hold none; a bad ``plot`` is refused first."""
    from harness.decision_files import find_files, read_decisions
    from harness.report.shape_bias_tables import HUMANS, study

    if plot is not None:
        from harness.report.curves import check_picture

        check_picture(plot)
    taken, passed_over = find_files(files)
    observers = read_decisions(taken, classes=_names(classes), by=by)
    return study(observers, humans=HUMANS if humans is None else humans), passed_over


def _names(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and (len(names) < 2 or len(set(names)) < len(names)):
        raise UsageError(f"--classes takes two or more different names, not {text!r}", hint="such as --classes cat,dog")
    return names


def _draw(found: ShapeBiasStudy, path: Path, *, average: Average) -> None:
    from harness.report.shape_bias import save_shape_bias

    systems, humans = found.systems()
    save_shape_bias(systems, path, humans=humans, average=average)
