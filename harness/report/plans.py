"""A plan as tables: which cells, which passes, and how many forward passes they cost."""

from __future__ import annotations

from collections.abc import Collection

from harness.planning import RunPlan, describe_ref
from harness.report.tables import Table
from harness.types import Cell


def plan_tables(plan: RunPlan, recorded: Collection[str] = ()) -> list[Table]:
    """The cells (one row per sweep), the passes, and in the notes what is already recorded.

    ``recorded``: keys of cells that the output folder answers already.
    """
    todo = plan.without(recorded)
    sweeps: dict[tuple[str, ...], list[str]] = {}
    for cell in plan.cells:
        level = "" if cell.level is None else f"{cell.level:g}"
        levels = sweeps.setdefault(_row(cell, is_control=cell.key in plan.control_keys), [])
        if level not in levels:
            levels.append(level)
    rows = tuple((*row[:4], ",".join(filter(None, levels)), *row[4:]) for row, levels in sweeps.items())
    passes = tuple(
        (
            describe_ref(walk.model.ref),
            walk.model.weights.identity.split(":")[0],
            f"{walk.dataset.ref.name}/{walk.split}",
            walk.view.text,
            str(len(walk.cells)),
            str(walk.num_images),
            str(walk.forwards_per_image),
            str(walk.num_images * walk.forwards_per_image),
        )
        for walk in todo.passes
    )
    total = sum(walk.num_images * walk.forwards_per_image for walk in todo.passes)
    done = len(plan.cells) - len(todo.cells)
    return [
        Table(
            title=f"{len(plan.cells)} cells ({done} already recorded)",
            header=("model", "dataset", "probe", "perturbation", "levels", "support", "note"),
            rows=rows,
            labels=7,
        ),
        Table(
            title=f"{len(todo.passes)} passes to do",
            header=("model", "weights", "dataset", "view", "cells", "images", "forwards/image", "forwards"),
            rows=passes,
            labels=4,
            notes=(f"{total} forward passes of one image, besides those over support images; nothing was run",),
        ),
    ]


def _row(cell: Cell, *, is_control: bool) -> tuple[str, ...]:
    support = "" if cell.support is None else describe_ref(cell.support)
    if cell.support_level is not None:
        support += f"@{cell.support_level:g}"
    note = "control" if is_control else ""
    if cell.control is not None:
        note += f": {cell.control.replace('_', ' ')}"
    elif is_control and cell.weights.untrained:
        note += ": random weights"
    return (
        describe_ref(cell.model),
        f"{cell.dataset.ref.name}/{cell.dataset.split}",
        describe_ref(cell.probe),
        describe_ref(cell.perturbation),
        support,
        cell.not_applicable or note,
    )
