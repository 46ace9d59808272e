"""``harness run``: from the command line to a grid, and from records to tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.cli.options import open_workbench, print_json, setup_options
from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.api import RunResult, Workbench
    from harness.planning import RunPlan
    from harness.request import Asked
    from harness.walk import Failure

_AXES = (
    click.option("-m", "--model", "models", multiple=True, help="Model name, comma list, glob or @file (repeatable)."),
    click.option(
        "-p",
        "--perturb",
        "perturbations",
        multiple=True,
        metavar="NAME[:key=value][@LEVELS]",
        help="Perturbation; @0.5, @0.1,0.5 or @all for levels (repeatable).",
    ),
    click.option("--probe", "probes", multiple=True, metavar="NAME[:key=value]", help="Probe (repeatable)."),
    click.option(
        "-d",
        "--dataset",
        "datasets",
        multiple=True,
        help="Dataset name; NAME@1,2 or @all for one that comes at levels (repeatable).",
    ),
    click.option(
        "--support-perturb",
        "support_perturbations",
        multiple=True,
        metavar="NAME[...]",
        help="Perturbation of the images that probes learn from (repeatable).",
    ),
    click.option("-s", "--suite", help="Named grid from the registry; options given beside it replace its axes."),
    click.option(
        "--weights",
        default="pretrained",
        show_default=True,
        metavar="pretrained|random|PATH",
        help="Which weights the models get; results of random ones are marked untrained.",
    ),
    click.option(
        "--allow-missing",
        multiple=True,
        metavar="PATTERN",
        help="Weights whose names match, such as 'head.*', need not be in both file and model (repeatable); what the "
        "file lacks keeps its initial values.",
    ),
    click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies."),
    click.option("--split", help="Split to ask about instead of the dataset's own choice."),
    click.option(
        "--view",
        metavar="model|ipvit|imagenet_c|SPEC",
        help="How images become pixels, such as resize=256,crop=224,interpolation=bicubic.",
    ),
    click.option("--seed", "seeds", multiple=True, metavar="N[,N...]", help="Seeds of the perturbations (repeatable)."),
    click.option("--support-seed", default=0, show_default=True, help="Seed of the support perturbation."),
    click.option("--probe-seed", default=0, show_default=True, help="First seed of the probes."),
    click.option("-L", "--limit", metavar="N|FRACTION", help="Use so many images, stratified by class; recorded."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Precision of the forward pass."),
    click.option(
        "--attack-target",
        type=click.Choice(["head", "probe"]),
        help="What attacks aim at that do not say so themselves: the model's head, or the probe that is then asked.",
    ),
    click.option(
        "--baseline",
        metavar="MODEL",
        help="Model, with its pretrained weights, that errors under corruptions are divided by: mce_vs_MODEL.",
    ),
    click.option(
        "--controls",
        is_flag=True,
        help="Add negative controls of every number: random weights, shuffled support labels, duplicated features, "
        "bare pixels.",
    ),
)
_EXECUTION = (
    click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        default=Path("runs"),
        show_default=True,
        help="Folder of records; what it already holds is not run again.",
    ),
    click.option(
        "-b",
        "--batch-size",
        default="auto",
        show_default=True,
        metavar="N|auto",
        help="Images per forward pass; halved when memory runs out.",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."),
    click.option("-j", "--workers", default=2, show_default=True, help="Decoding threads."),
    click.option(
        "--checkpoint-every", default="auto", show_default=True, metavar="N|auto", help="Batches between checkpoints."
    ),
    click.option("--cache-dir", type=click.Path(path_type=Path), help="Where features are kept between runs."),
    click.option("--no-cache", is_flag=True, help="Keep no features between runs."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first cell that fails."),
    click.option("--shard", metavar="I/N", help="Run part I of N of the cells, counted from 1."),
)
_OUTPUT = (
    click.option("-n", "--dry-run", is_flag=True, help="Print cells, passes and forward counts; run nothing."),
    click.option("--estimate", is_flag=True, help="Time a few batches and say what the run would cost."),
    click.option("--json", "as_json", is_flag=True, help="Print records as JSON lines."),
    click.option(
        "--plot",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw curves of the results into a .png, .svg or .pdf; replaces what is there.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes."),
)


def _options(command: Any) -> Any:
    for option in reversed((*_AXES, *_EXECUTION, *_OUTPUT)):
        command = option(command)
    return setup_options(command)


@click.command()
@_options
def run(**given: Any) -> int:
    """Run every combination of models, perturbations and probes; each is one record.

    What is not given comes from the suite, then from the registry's defaults. Running the same command again does
    only what is missing, and a run that was killed goes on where it stopped.

    \b
      harness run --model vit_b16 --probe fewshot
      harness run -m resnet50,vit_s16 -p patchdrop_random@all --probe top1 --data PHOTOS
      harness run -m vit_mini -p pgd@1,2,4 --probe head -d shapes
      harness run -m 'deit_*' --weights random -p patchdrop_random:grid=7@0.25,0.5 -d digits
    """
    _check_plot(given)
    bench = open_workbench(given["registry_files"], given["no_plugin"], given["strict_plugins"])
    asked = _asked(given)
    options = _run_options(given)
    if given["dry_run"]:
        _print_plan(bench, asked, given)
        return 0
    if given["estimate"]:
        return _print_estimate(bench, asked, given)
    from harness.api import run_asked
    from harness.progress import default_progress

    result = run_asked(
        bench,
        asked,
        out=given["out"],
        shard=_shard(given["shard"]),
        options=options,
        progress=default_progress(quiet=given["quiet"]),
        planned=None if given["plot"] is None else _require_few_panels,
    )
    _print_result(result, as_json=given["as_json"], quiet=given["quiet"])
    drawn = given["plot"] is None or _plot(result, given["plot"], quiet=given["quiet"])
    return result.exit_code if drawn else 1


def _check_plot(given: dict[str, Any]) -> None:
    """What is wrong with ``--plot`` is said before a long run, not after it."""
    if given["plot"] is None:
        return
    for flag in ("dry_run", "estimate"):
        if given[flag]:
            raise UsageError(f"--{flag.replace('_', '-')} runs nothing, so that there is nothing to --plot")
    from harness.report.curves import check_picture

    check_picture(given["plot"], made=given["out"])


def _require_few_panels(plan: RunPlan) -> None:
    from harness.report.panels import least_panels, require_few

    require_few(least_panels(cell.as_dict() for cell in plan.asked if cell.not_applicable is None))


def _plot(result: RunResult, path: Path, *, quiet: bool) -> bool:
    """Draw the result; False where that failed, which costs nobody the records."""
    try:
        result.plot(path)
    except HarnessError as error:
        click.echo(f"warning: no picture was drawn: {error}", err=True)
        return False
    if not quiet:
        click.echo(f"picture: {path}", err=True)
    return True


def _asked(given: dict[str, Any]) -> Asked:
    from harness.request import Asked
    from harness.weights import parse_weights

    return Asked(
        models=given["models"],
        perturbations=given["perturbations"],
        probes=given["probes"],
        datasets=given["datasets"],
        support_perturbations=given["support_perturbations"],
        suite=given["suite"],
        weights=parse_weights(given["weights"], allow_missing=given["allow_missing"]),
        data=given["data"],
        split=given["split"],
        view=given["view"],
        seeds=_seeds(given["seeds"]),
        support_seed=given["support_seed"],
        probe_seed=given["probe_seed"],
        limit=given["limit"],
        precision=given["precision"],
        controls=given["controls"],
        baseline=given["baseline"],
        attack_target=given["attack_target"],
    )


def _seeds(texts: tuple[str, ...]) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for text in texts for part in text.split(",")) if texts else None
    except ValueError as error:
        raise UsageError(f"--seed takes whole numbers such as 0 or 0,1,2, not {', '.join(texts)}") from error


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    index, separator, count = text.partition("/")
    if not separator or not index.isdecimal() or not count.isdecimal() or not 1 <= int(index) <= int(count):
        raise UsageError(f"--shard takes I/N with 1 <= I <= N, such as 1/4, not {text!r}")
    return int(index), int(count)


def _count(text: str, option: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--{option} takes a whole number from 1 up, or auto, not {text!r}")
    return int(text)


def _run_options(given: dict[str, Any]) -> Any:
    from harness.options import RunOptions
    from harness.paths import cache_dir

    return RunOptions(
        device=given["device"],
        batch_size=_count(given["batch_size"], "batch-size"),
        workers=given["workers"],
        checkpoint_every=_count(given["checkpoint_every"], "checkpoint-every"),
        cache_dir=None if given["no_cache"] else given["cache_dir"] or cache_dir(),
        fail_fast=given["fail_fast"],
    )


def _print_result(result: RunResult, *, as_json: bool, quiet: bool) -> None:
    from harness.options import summarised_counts
    from harness.report.tables import not_applicable_table
    from harness.report.terminal import show

    if as_json:
        for record in result.records:
            click.echo(json.dumps(record.as_dict(), ensure_ascii=False))
    else:
        tables = result.tables()
        if (refused := not_applicable_table(result.asked)) is not None:
            tables.append(refused)
        for table in tables:
            show(table)
            click.echo()
    _print_failures(result.failures)
    for warning in result.warnings:
        click.secho(f"warning: {warning}", err=True, fg="red", bold=True)
    for trace in dict.fromkeys(failure.trace for failure in result.failures if failure.trace):
        click.echo(trace, err=True)
    if not quiet:
        click.echo(f"{summarised_counts(result.counters, result.records, result.reused)}; in {result.path}", err=True)
        if (made := result.artifacts) is not None:
            count = len(made.pictures)
            click.echo(f"curves: {made.table} and {count} picture{'' if count == 1 else 's'}", err=True)
        for exhibit in result.exhibits:
            for path in (*exhibit.pictures, *exhibit.tables):
                click.echo(f"{exhibit.probe}: {path}", err=True)


def _print_failures(failures: Sequence[Failure]) -> None:
    """Each reason once, with the first of the cells that it kept from their records."""
    cells: dict[str, list[str]] = {}
    for failure in failures:
        cells.setdefault(failure.message, []).append(failure.cell)
    for message, names in cells.items():
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        click.echo(f"failed: {names[0]}{others}: {message}", err=True)


def _plan(bench: Workbench, asked: Asked, given: dict[str, Any]) -> RunPlan:
    from harness.api import plan_asked

    shard = _shard(given["shard"])
    plan = plan_asked(bench, asked)
    return plan if shard is None else plan.shard(shard[0] - 1, shard[1])


def _print_plan(bench: Workbench, asked: Asked, given: dict[str, Any]) -> None:
    plan = _plan(bench, asked, given)
    done = _recorded(given["out"])
    if given["as_json"]:
        print_json({**plan.as_dict(), "recorded": sorted(done & {cell.key for cell in plan.cells})})
        return
    from harness.report.plans import plan_tables
    from harness.report.terminal import show

    for table in plan_tables(plan, done):
        show(table)
        click.echo()


def _recorded(out: Path) -> frozenset[str]:
    """Keys of the cells that ``out`` already answers."""
    from harness.records import load_records, record_files

    if not out.is_dir() or not record_files(out):
        return frozenset()
    return frozenset(record.key for record in load_records(out))


def _print_estimate(bench: Workbench, asked: Asked, given: dict[str, Any]) -> int:
    from harness.estimate import estimate
    from harness.progress import default_progress

    plan = _plan(bench, asked, given).without(_recorded(given["out"]))
    found = estimate(plan, _run_options(given), default_progress(quiet=given["quiet"]))
    if given["as_json"]:
        print_json(found.as_dict())
    else:
        print(found.text, file=sys.stdout)
    return 0
