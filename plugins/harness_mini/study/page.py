"""The results of the study as the tables of the plugin's README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness_mini.study.predictions import PREDICTIONS, Prediction

README = Path(__file__).parents[1] / "README.md"
_MARKS = ("models", "findings", "cues")


def pages(results: Mapping[str, Any]) -> dict[str, str]:
    """The Markdown that stands behind each mark of the README."""
    return {
        "models": _models(results["models"]),
        "findings": _findings(results["findings"]),
        "cues": _cues(results["cues"]),
    }


def rewritten(readme: str, results: Mapping[str, Any]) -> str:
    """``readme`` with the tables of ``results`` between its marks ``<!-- NAME -->`` and ``<!-- end -->``.

    Raises :class:`~harness.errors.DataError` for a README that lacks a mark.
    """
    for name, table in pages(results).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
        if not pattern.search(readme):
            raise DataError(f"the README of harness_mini has no mark <!-- {name} --> ... <!-- end -->")
        readme = pattern.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", readme)  # type: ignore[misc]
    return readme


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    by_name = {finding["name"]: finding for finding in findings}
    rows = [_finding_row(prediction, by_name[prediction.name]) for prediction in PREDICTIONS]
    return _table(("the paper's finding", "measured here", "predicted", "difference", "verdict"), rows)


def _finding_row(prediction: Prediction, finding: Mapping[str, Any]) -> tuple[str, ...]:
    sign = ">" if prediction.direction == "greater" else "<"
    if finding["low"] is None:
        difference = "-"
    else:
        difference = (
            f"{finding['difference']:+.3f} [{finding['low']:+.3f}, {finding['high']:+.3f}] {finding['interval']}"
        )
    first, second = (f"{name} {finding[side]:.3f}" for name, side in _sides(prediction))
    return (
        f"{prediction.finding} ({prediction.source})",
        f"{prediction.quantity}: {first}; {second}",
        f"{prediction.first} {sign} {prediction.second}",
        difference,
        f"**{finding['verdict']}**" + (f" ({finding['note']})" if finding["note"] else ""),
    )


def _sides(prediction: Prediction) -> tuple[tuple[str, str], tuple[str, str]]:
    return (prediction.first, "first"), (prediction.second, "second")


def _models(models: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for model in models:
        measured_heads = [list(accuracy) for accuracy in model["accuracy"] if accuracy]
        for head in measured_heads[0] if measured_heads else ["-"]:
            measured = [_percent(seed[head]) for seed in model["accuracy"] if seed]
            agreed = model["teacher_agrees_with_label"]
            rows.append(
                (
                    f"`{model['model']}`",
                    f"{model['parameters']:,}",
                    head,
                    model["split"] if measured else "-",
                    ", ".join(measured) or "no head",
                    f"{model['teacher']}, {_percent(agreed)}" if agreed else "-",
                )
            )
    header = (
        "model",
        "parameters",
        "head",
        "asked about",
        "top-1 (%), each training seed",
        "teacher, and how often it names the label (%)",
    )
    return _table(header, rows)


def _cues(cues: Sequence[Mapping[str, Any]]) -> str:
    contrasts = list(cues[0]["bias"])
    header = (
        "model", "seed", "head", "shape only (%)", "texture only (%)", "decided by either cue (%)", "shape bias",
        *(f"at contrast {contrast}" for contrast in contrasts[:-1]),
    )  # fmt: skip
    rows = [
        (
            f"`{row['model']}`",
            str(row["seed"]),
            row["head"],
            *(f"{100 * row[key]:.1f}" for key in ("shape_only", "texture_only", "coverage")),
            _bias(row["bias"][contrasts[-1]]) + (f" [{row['low']:.3f}, {row['high']:.3f}]" if row["coverage"] else ""),
            *(_bias(row["bias"][contrast]) for contrast in contrasts[:-1]),
        )
        for row in cues
    ]
    return _table(header, rows)


def _bias(value: float | None) -> str:
    return "neither cue" if value is None else f"{value:.3f}"


def _percent(proportion: Mapping[str, Any]) -> str:
    return f"{100 * proportion['value']:.1f} [{100 * proportion['low']:.1f}, {100 * proportion['high']:.1f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
