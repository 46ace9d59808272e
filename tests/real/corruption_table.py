"""Native corruptions beside the package imagecorruptions on photographs: python tests/real/corruption_table.py DIR.

DIR holds ``imagenet_photos``, or the photographs themselves; they are cut to 224 px as view ``ipvit`` does. For the
deterministic corruptions the table has how far native pixels lie from the package's, in 1/255. For random ones, whose
draws differ, it has what each does to the images on average: mean and standard deviation of the change, in 1/255, and
how far the spectra of the two changes lie apart, in dB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from harness import views
from harness.protocols import PerturbationContext
from harness.targets import load_target
from harness.types import ImageBatch, View
from harness_corruptions.parameters import SEVERITY
from harness_corruptions.plugin import harness_register_perturbations
from harness_corruptions.reference import NAMES, corrupted

VIEW = View.parse("ipvit")
SEVERITIES = tuple(int(severity) for severity in SEVERITY.values)
ENTRIES = {entry.name: entry for entry in harness_register_perturbations() if entry.name in NAMES}
DETERMINISTIC = tuple(name for name in NAMES if not ENTRIES[name].stochastic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Native and package pixels of a deterministic corruption, in 1/255: over all images, and of the worst image."""

    name: str
    severity: int
    images: int
    mean: float
    mean_of_worst_image: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a random corruption does to images, natively and by the package: in 1/255, and in dB between the two."""

    name: str
    severity: int
    images: int
    native_mean: float
    package_mean: float
    native_std: float
    package_std: float
    spectral_distance_db: float


def photographs(data: Path, count: int) -> ImageBatch:
    """The first ``count`` photographs of DIR."""
    folder = data / "imagenet_photos" if (data / "imagenet_photos").is_dir() else data
    files = sorted(path for path in folder.glob("**/*") if path.suffix.lower() in Image.registered_extensions())[:count]
    if not files:
        raise SystemExit(f"{folder}: no photographs")
    return views.to_batch(
        np.stack([views.render(views.decode(path), VIEW, name=str(path)) for path in files]),
        labels=[0] * len(files),
        ids=[path.name for path in files],
        positions=range(len(files)),
    )


def native(name: str, batch: ImageBatch, severities: Sequence[int], **params: object) -> Iterator[torch.Tensor]:
    """The native corruption of ``batch`` at each severity: (N, 3, H, W)."""
    perturbation: Any = load_target(ENTRIES[name])(**params)
    perturbation.prepare(
        PerturbationContext(
            seed=0,
            view=VIEW,
            device=torch.device("cpu"),
            dataset_fingerprint="none",
            num_classes=2,
            num_images=len(batch),
        )
    )
    drawn = perturbation.begin(batch)
    for severity in severities:
        yield perturbation.apply(batch, drawn, float(severity)).images


def compared(
    name: str, batch: ImageBatch, severities: Sequence[int] = SEVERITIES, **params: object
) -> list[Difference | Change]:
    """One row for each severity."""
    rows: list[Difference | Change] = []
    for severity, ours in zip(severities, native(name, batch, severities, **params), strict=True):
        theirs = corrupted(batch, name, severity, seed=0, stream=f"table.{name}")
        row = _difference if name in DETERMINISTIC else _change
        rows.append(row(name, severity, batch.images, ours, theirs))
    return rows


def _difference(name: str, severity: int, _clean: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> Difference:
    gaps = 255 * (ours - theirs).abs().double()
    return Difference(
        name=name,
        severity=severity,
        images=len(ours),
        mean=gaps.mean().item(),
        mean_of_worst_image=gaps.mean(dim=(1, 2, 3)).max().item(),
        maximum=gaps.max().item(),
    )


def _change(name: str, severity: int, clean: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> Change:
    changes = [255 * (images - clean).double() for images in (ours, theirs)]
    one, other = (10 * np.log10(spectrum(change)) for change in changes)
    (native_mean, native_std), (package_mean, package_std) = (
        (change.mean().item(), change.std().item()) for change in changes
    )
    return Change(
        name=name,
        severity=severity,
        images=len(ours),
        native_mean=native_mean,
        package_mean=package_mean,
        native_std=native_std,
        package_std=package_std,
        spectral_distance_db=float(np.sqrt(np.mean((one - other) ** 2))),
    )


def spectrum(change: torch.Tensor, bands: int = 24) -> npt.NDArray[np.float64]:
    """Mean power of (N, 3, H, W) changes in ``bands`` rings of equal width up to the Nyquist frequency."""
    power = torch.fft.fft2(change, norm="ortho").abs().square().mean(dim=(0, 1)).numpy()
    rows, columns = (np.fft.fftfreq(length) for length in power.shape)
    ring = (2 * bands * np.hypot(rows[:, None], columns[None, :])).astype(int)
    # The floor is far below the cut to 8 bits: bands without any change do not count as infinitely far apart.
    return np.array([max(power[ring == band].mean(), 1e-3) for band in range(bands)])


def text(rows: Sequence[Difference | Change]) -> str:
    """The two tables as people read them."""
    lines = [f"{'deterministic, in 1/255':<26}{'mean':>10}{'worst image':>13}{'maximum':>10}"]
    lines += [
        f"{f'{row.name}@{row.severity}':<26}{row.mean:>10.4f}{row.mean_of_worst_image:>13.4f}{row.maximum:>10.0f}"
        for row in rows
        if isinstance(row, Difference)
    ]
    lines += [
        "",
        f"{'random, change in 1/255':<26}{'mean':>10}{'package':>10}{'std':>10}{'package':>10}{'dB apart':>10}",
    ]
    lines += [
        f"{f'{row.name}@{row.severity}':<26}{row.native_mean:>10.2f}{row.package_mean:>10.2f}{row.native_std:>10.2f}"
        f"{row.package_std:>10.2f}{row.spectral_distance_db:>10.2f}"
        for row in rows
        if isinstance(row, Change)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--json", action="store_true", help="the rows as JSON instead of tables")
    given = parser.parse_args()
    batch = photographs(given.data, given.images)
    rows = [row for name in given.only for row in compared(name, batch)]
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"{len(batch)} photographs of {VIEW.crop} px, variant imagecorruptions\n")
    print(text(rows))


if __name__ == "__main__":
    main()
