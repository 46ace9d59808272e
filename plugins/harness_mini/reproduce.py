"""``python -m harness_mini.reproduce``: hold every prediction against the zoo, and write down what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from harness.errors import HarnessError, WeightsError
from harness.types import JSONValue
from harness_mini.cards import read_card
from harness_mini.shapes_dataset import Shapes
from harness_mini.study import frozen, measures, page
from harness_mini.study.findings import MEASUREMENTS
from harness_mini.study.laboratory import IMAGES, SEEDS, Study
from harness_mini.study.measures import Images
from harness_mini.study.predictions import PREDICTIONS, Prediction
from harness_mini.study.verdicts import Finding
from harness_mini.zoo import entries

FILE = Path(__file__).parent / "study" / "findings.json"

CONTRASTS = (0.25, 0.5, 0.75, 1.0)
"""Texture contrasts of the sweep: on generated images the bias measures how strong we made the cues."""


def cue_rows(study: Study) -> list[dict[str, JSONValue]]:
    """For every classifier (and head): accuracy on shapes alone and textures alone, and the bias along contrast."""
    rows: list[dict[str, JSONValue]] = []
    for entry in entries():
        info = study.model(entry.name).info
        for head in [head for head in info.heads if head != "average"]:
            rows += [_cue_row(study, entry.name, seed, head) for seed in study.seeds(entry.name)]
            click.echo(f"cues of {entry.name}, {head}: done", err=True)
    return rows


def _cue_row(study: Study, name: str, seed: int, head: str) -> dict[str, JSONValue]:
    alone = {
        split: float(
            measures.correct(
                study.model(name, seed), Images(dataset=Shapes(), split=split, count=IMAGES), head=head
            ).mean()
        )
        for split in ("shape_only", "texture_only")
    }
    biases = {contrast: study.bias(name, seed, head, contrast) for contrast in CONTRASTS}
    usual = biases[1.0]
    return {
        "model": name,
        "seed": seed,
        "head": head,
        **alone,
        "coverage": usual.coverage,
        "low": usual.interval.low if usual.coverage else None,
        "high": usual.interval.high if usual.coverage else None,
        "bias": {f"{contrast:g}": bias.value if bias.coverage else None for contrast, bias in biases.items()},
    }


def model_rows() -> list[dict[str, JSONValue]]:
    """For every model: size, and accuracy on the images of its own kind for each training seed."""
    rows: list[dict[str, JSONValue]] = []
    for entry in entries():
        card = read_card(entry.name)
        split = "stylized" if card["recipe"]["split"] == "stylized_train" else "test"
        cards = [card, *card["other_seeds"]]
        rows.append(
            {
                "model": entry.name,
                "parameters": card["parameters"],
                "split": split,
                "accuracy": [c["accuracy"] and c["accuracy"][split] for c in cards],
                "teacher": card["recipe"]["teacher"],
                "teacher_agrees_with_label": card.get("teacher_agrees_with_label"),
            }
        )
    return rows


@click.command()
@click.option(
    "--replicas",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with seeds 1 and 2 of vit_mini and cnn_mini, made by harness_mini.train --seed.",
)
@click.option("--only", metavar="NAME[,NAME]", help="Measure these predictions only, and write nothing.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where results go (JSON) [default: the package's own file, and the tables of its README].",
)
def main(replicas: Path | None, only: str | None, out: Path | None) -> None:
    """Measure every prediction on the zoo, print the verdicts, and write them with the tables beside them."""
    if only is not None and out is not None:
        raise click.UsageError("--only writes nothing, so --out has no use beside it")
    try:
        _require_frozen()
        study = Study(replicas)
        if only is None and out is None:
            _require_replicas(study)
        wanted = list(MEASUREMENTS) if only is None else [name.strip() for name in only.split(",")]
        if unknown := [name for name in wanted if name not in MEASUREMENTS]:
            raise click.UsageError(f"--only does not know {', '.join(unknown)}; it knows {', '.join(MEASUREMENTS)}")
        chosen = [prediction for prediction in PREDICTIONS if prediction.name in wanted]
        found = [_measured(study, prediction) for prediction in chosen]
        if only is None:
            results: dict[str, Any] = {
                "frozen": frozen.state(),
                "findings": [_plain(finding) for finding in found],
                "models": model_rows(),
                "cues": cue_rows(study),
                "images": IMAGES,
            }
            (out or FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            click.echo(f"written: {out or FILE}", err=True)
            if out is None:
                page.README.write_text(page.rewritten(page.README.read_text("utf-8"), results), encoding="utf-8")
                click.echo(f"written: {page.README}", err=True)
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _measured(study: Study, prediction: Prediction) -> Finding:
    finding = MEASUREMENTS[prediction.name](study, prediction)
    click.echo(f"{finding.verdict:12}  {prediction.name}: {sentence(prediction, finding)}")
    sys.stdout.flush()
    return finding


def sentence(prediction: Prediction, finding: Finding) -> str:
    """The numbers of a finding in words."""
    text = f"{prediction.first} {finding.first:.3f}, {prediction.second} {finding.second:.3f}"
    if finding.low is None or finding.high is None:
        return f"{text}; {finding.note}"
    return f"{text}, difference {finding.difference:+.3f} [{finding.low:+.3f}, {finding.high:+.3f}]"


def _require_frozen() -> None:
    kept = json.loads(frozen.FILE.read_text(encoding="utf-8"))
    changed = [key for key, value in frozen.state().items() if kept.get(key) != value]
    if changed:
        raise WeightsError(
            f"{', '.join(changed)} changed since the study was frozen",
            hint="train anew, then python -m harness_mini.study.frozen before the first evaluation",
        )


def _require_replicas(study: Study) -> None:
    """The published tables are never replaced by ones with rows that were not measured."""
    compared = {n for p in PREDICTIONS if p.compares == "architectures" for n in (p.first, p.second)}
    if lacking := sorted(name for name in compared if len(study.seeds(name)) < len(SEEDS)):
        raise WeightsError(
            f"{' and '.join(lacking)}: fewer than {len(SEEDS)} training seeds, so the package's tables are kept",
            hint="give the folder of the other seeds with --replicas, or another place for the results with --out",
        )


def _plain(finding: Finding) -> dict[str, JSONValue]:
    return {name: getattr(finding, name) for name in finding.__slots__}


if __name__ == "__main__":
    main()
