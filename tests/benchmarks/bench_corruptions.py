"""What a corruption costs natively and by the reference package: ``python tests/benchmarks/bench_corruptions.py``.

Every corruption at severities 1, 3 and 5 of 224 px photographs: the package imagecorruptions image by image, and the
native implementation on a whole batch, in milliseconds per image. ``native`` counts all random draws anew at every
severity; ``shared`` divides them among the severities, as in a sweep over them, where the draws are made once. All take
turns, so that a slow spell of the machine meets every one of them; medians are shown. A ratio is the package's time
over ``native``. Photographs come from ``--data`` (a folder of images, or the shared ones where they are there); without
any, generated pictures stand in.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness import views
from harness.entries import PerturbationEntry
from harness.errors import HarnessError
from harness.protocols import PerturbationContext
from harness.targets import load_target
from harness.testing.sample import sample_batch
from harness.types import ImageBatch, View
from harness_corruptions.plugin import BENCHMARK, EXTRA, harness_register_perturbations
from harness_corruptions.reference import corrupt_one, require_package

VIEW = View.parse("ipvit")
SEVERITIES = (1, 3, 5)
MEAN_LIMIT = 4.0
WORST_LIMIT = 0.8
SLOW = {"glass_blur": 1}
"""How many images the package gets where one takes it a second."""
PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet_photos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Milliseconds per image of one corruption at one severity."""

    name: str
    severity: int
    package: float
    native: float
    shared: float

    @property
    def ratio(self) -> float:
        """How many times as long the package takes."""
        return self.package / self.native


def photographs(folder: Path, count: int) -> ImageBatch:
    """The first images of ``folder``, over again where they are fewer; generated ones where it is not there."""
    files = sorted(path for path in folder.glob("**/*") if path.suffix.lower() in Image.registered_extensions())
    if not files:
        return sample_batch(range(count), side_px=VIEW.crop)
    chosen = [files[i % len(files)] for i in range(count)]
    pixels = np.stack([views.render(views.decode(path), VIEW, name=str(path)) for path in chosen])
    return views.to_batch(
        pixels,
        labels=[0] * count,
        ids=[f"{i}/{path.name}" for i, path in enumerate(chosen)],
        positions=range(count),
    )


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, to the end of its work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def package_action(name: str, severity: int, images: np.ndarray) -> tuple[Callable[[], object], int]:
    """The package on some of (N, H, W, 3) uint8 images, one by one, and on how many."""
    some = images[: SLOW.get(name, 4)]
    return lambda: [corrupt_one(name, image, severity, seed=i) for i, image in enumerate(some)], len(some)


def native(entry: PerturbationEntry, variant: str, batch: ImageBatch, device: torch.device) -> Any:
    """The native corruption, ready for ``batch``."""
    perturbation: Any = load_target(entry)(variant=variant)
    perturbation.prepare(
        PerturbationContext(
            seed=0,
            view=VIEW,
            device=device,
            dataset_fingerprint="bench",
            num_classes=2,
            num_images=len(batch),
        )
    )
    return perturbation


def measure(names: list[str], batch: ImageBatch, variant: str, repeats: int, device: torch.device) -> list[Row]:
    """One row per corruption and severity, each the median of ``repeats`` turns after one to warm up."""
    entries = {entry.name: entry for entry in harness_register_perturbations()}
    images = batch.images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    batch = batch.to(device)
    actions: dict[tuple[str, str, int], tuple[Callable[[], object], int]] = {}
    for name in names:
        perturbation = native(entries[name], variant, batch, device)
        drawn = perturbation.begin(batch)
        actions["draws", name, 0] = (lambda p=perturbation: p.begin(batch)), len(batch)
        for severity in SEVERITIES:
            actions["package", name, severity] = package_action(name, severity, images)
            actions["apply", name, severity] = (
                lambda p=perturbation, d=drawn, s=severity: p.apply(batch, d, float(s)),
                len(batch),
            )
    with torch.inference_mode():
        for action, _ in actions.values():
            action()
        rounds = [
            {key: 1000 * seconds(action, device) / count for key, (action, count) in actions.items()}
            for _ in range(repeats)
        ]
    found = {key: statistics.median(row[key] for row in rounds) for key in actions}
    return [
        Row(
            name=name,
            severity=severity,
            package=found["package", name, severity],
            native=found["draws", name, 0] + found["apply", name, severity],
            shared=found["draws", name, 0] / len(SEVERITIES) + found["apply", name, severity],
        )
        for name in names
        for severity in SEVERITIES
    ]


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def main() -> int:
    every = [name for name, _, _ in (*BENCHMARK, *EXTRA)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=PHOTOGRAPHS, metavar="DIR")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variant", default="imagecorruptions", choices=("imagecorruptions", "imagenet_c"))
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME")
    given = parser.parse_args()
    try:
        require_package()
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    batch = photographs(given.data, given.batch_size)
    kind = "generated pictures" if batch.ids[0].startswith("sample/") else f"photographs of {given.data.name}"
    started = time.perf_counter()
    rows = measure(given.only, batch, given.variant, given.repeats, device)
    print(
        f"{len(batch)} {kind}, {VIEW.crop} px, variant {given.variant}; {device}, {torch.get_num_threads()} threads, "
        f"median of {given.repeats}, {time.perf_counter() - started:.0f} s in all\n"
    )
    print(f"{'ms/image':<24}{'package':>10}{'native':>10}{'shared':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{f'{row.name}@{row.severity}':<24}{row.package:>10.2f}{row.native:>10.2f}{row.shared:>10.2f}"
            f"{row.ratio:>8.1f}{'  too slow' if row.ratio < WORST_LIMIT else ''}"
        )
    benchmark = {name for name, _, _ in BENCHMARK}
    judged = [row for row in rows if row.name in benchmark]
    if not judged:
        return 0
    mean = geometric_mean([row.ratio for row in judged])
    worst = min(judged, key=lambda row: row.ratio)
    print(
        f"\ngeometric mean over {len({row.name for row in judged})} of the 15: {mean:.2f} times as fast as the package "
        f"(limit {MEAN_LIMIT:g}); with shared draws {geometric_mean([r.package / r.shared for r in judged]):.2f}\n"
        f"worst: {worst.name}@{worst.severity}, {worst.ratio:.2f} (limit {WORST_LIMIT:g})"
    )
    return int(mean < MEAN_LIMIT or worst.ratio < WORST_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
