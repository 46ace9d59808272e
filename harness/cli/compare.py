"""``harness compare``: models of one or several runs against each other, with tests; imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from harness.cli.options import json_option, print_json


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--metric",
    metavar="COLUMN",
    help="Column of the outcomes to compare, such as correct_top5 or average_precision; by default whether answers "
    "are right, or the accuracy of each episode.",
)
@click.option(
    "--alpha", default=0.05, show_default=True, help="Level of the adjusted p-value at which models are separable."
)
@click.option(
    "--family",
    type=click.Choice(["question", "all"]),
    default="question",
    show_default=True,
    help="Pairs over which p-values are adjusted: those of one question, or of everything printed.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="AXIS[,AXIS...]",
    help="Compare although this differs: view, precision, seeds, features (repeatable).",
)
@click.option("--all-heads", is_flag=True, help="Compare every head of a distilled model, not only its default.")
@click.option("--pairs", is_flag=True, help="Print all pairs, not only those that are not separable.")
@json_option
def compare(
    runs: tuple[Path, ...],
    metric: str | None,
    alpha: float,
    family: Literal["question", "all"],
    allow: tuple[str, ...],
    all_heads: bool,
    pairs: bool,
    as_json: bool,
) -> None:
    """Compare models on the same images or episodes: which differ, by how much, and how sure that is.

    RUN is the output folder of a run, or a file of records. Models are compared question by question, a question being
    everything but the model and the perturbation's seed: dataset, limit, view, perturbation with its level, probe.
    Models that share a letter are not separable; the second table says how many images would be needed to separate
    them.

    What is not comparable is refused, saying why: other parameters or versions, other images, another limit, view,
    precision or other seeds. The last three can be let pass with --allow, and then stand below each table.

    \b
      harness compare runs
      harness compare runs/vit runs/resnet --family all --pairs
      harness compare runs --metric correct_top5 --alpha 0.01 --json
      harness compare runs/a runs/b --allow view,precision
    """
    from harness.comparison import compare as compare_runs
    from harness.report.comparisons import comparison_tables
    from harness.report.terminal import show

    found = compare_runs(*runs, metric=metric, alpha=alpha, family=family, allow=allow, all_heads=all_heads)
    if as_json:
        print_json(found.as_dict())
        return
    for table in comparison_tables(found, pairs=pairs):
        show(table)
        click.echo()
    for note in found.notes:
        click.echo(note, err=True)
