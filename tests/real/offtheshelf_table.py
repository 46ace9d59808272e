"""Off-the-shelf features of the real ViT-Ti/16 on CIFAR-10 and Omniglot, beside those of its random-weights twin.

``python tests/real/offtheshelf_table.py DATA [--limit N]`` prints, per probe and token ensemble, accuracy in percent
with its interval for the trained weights, the random ones, and bare pixels. DATA holds ``cifar10_jpeg`` (class folders
under train and test), ``omniglot`` (the zip of the small background set) and the weights.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import harness
from harness.types import Measurement

WEIGHTS = "weights/vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"
ENLARGED = "resize=224,crop=224,interpolation=bicubic"
ENSEMBLES = ("last", "ensemble4", "last+patch", "ensemble4+patch")
PROBES = {
    "cifar10": ("knn:k=20", "linear", "fewshot:ridge_lambda=auto:shots=1+5+10"),
    "omniglot": ("knn:k=1", "fewshot:ridge_lambda=auto:shots=1:validation_images=5", "episodes:queries=5"),
}


def table(data: Path, *, limit: float | None = None, ensembles: tuple[str, ...] = ENSEMBLES) -> list[dict[str, object]]:
    """One row per data, probe, ensemble and setting: measurements by whose features they are read from."""
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(data / "omniglot" / "images_background_small1.zip") as archive:
            archive.extractall(scratch)
        places = {
            "cifar10": ("folder", data / "cifar10_jpeg"),
            "omniglot": ("folder:class_depth=2", Path(scratch) / "images_background_small1"),
        }
        for name, (dataset, root) in places.items():
            for whose, model, weights in (
                ("trained", "vit_ti16", str(data / WEIGHTS)),
                ("random", "vit_ti16", "random"),
                ("pixels", "pixel_statistics", "pretrained"),
            ):
                of = ("pooled",) if whose == "pixels" else ensembles
                result = harness.run(
                    model=model,
                    weights=weights,
                    dataset=dataset,
                    data=root,
                    view=ENLARGED,
                    probe=[f"{probe}:features={e}" for probe in PROBES[name] for e in of],
                    limit=limit,
                )
                assert result.failures == (), result.failures
                for record in result.records:
                    given = record.cell["components"]["probe"]["params"]["features"]
                    for row in record.measurements:
                        if row.metric != "accuracy":
                            continue
                        setting = " ".join(f"{key}={value}" for key, value in row.dims.items())
                        for ensemble in ensembles if whose == "pixels" else (given,):
                            key = (name, record.cell["probe"], setting, ensemble)
                            rows.setdefault(key, {})[whose] = row
    return [
        {"data": name, "probe": probe, "setting": setting, "features": ensemble, **found}
        for (name, probe, setting, ensemble), found in rows.items()
    ]


def _shown(row: object) -> str:
    assert isinstance(row, Measurement)
    low, high = (f"{100 * end:.1f}" if end is not None else "" for end in (row.low, row.high))
    return f"{100 * row.value:.1f} [{low}, {high}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=float, help="share of the images asked about")
    given = parser.parse_args()
    print(
        "| data | probe | setting | features | trained | random weights | bare pixels |\n|---|---|---|---|---|---|---|"
    )
    for row in table(given.data, limit=given.limit):
        numbers = " | ".join(_shown(row[whose]) for whose in ("trained", "random", "pixels"))
        print(f"| {row['data']} | {row['probe']} | {row['setting']} | {row['features']} | {numbers} |")
