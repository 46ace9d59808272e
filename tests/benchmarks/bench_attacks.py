"""What PGD costs beside torchattacks, what bf16 saves, and what early stopping saves.

``python tests/benchmarks/bench_attacks.py`` times PGD of 10 steps on a ResNet-50 and a ViT-S/16 with random weights,
native and by torchattacks, from the same images, with the same step and number of steps, in fp32 and, where the
processor has instructions for it, in bf16. Both are given the same frozen network, take turns, and are compared turn by
turn, so that a slow spell of the machine meets both; medians are shown, and how many pixels their results do not share.
Then PGD of 20 steps at 4/255 on a trained network with ``early_stop`` and without: a ViT-Ti on photographs where
``--data DIR`` holds ``imagenet_photos`` and ``weights``, else the embedded ViT on its own images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
import torchattacks
from torch import Tensor, nn

from harness import rng
from harness.catalog import build_catalog
from harness.components import dataset_component, model_component
from harness.forward import head_scores
from harness.manager import build_manager
from harness.types import ImageBatch
from harness.weights import WeightsChoice, parse_weights
from harness_attacks.pgd import pgd
from harness_attacks.projections import random_points

NETWORKS = ("resnet50", "vit_small_patch16_224")
VIT_TI = "weights/vit_tiny_patch16_224_in1k/vit_tiny_patch16_224.augreg_in21k_ft_in1k.fp16.safetensors"
EPS, STEP = 4 / 255, 1 / 255
STEPS, STOPPED_STEPS = 10, 20
SLOWER_LIMIT = 1.03
"""Ratio to torchattacks that counts as slower: two turns of the very same attack lie this far apart."""
BF16_LIMIT = 1 / 1.8
"""What PGD in bf16 may take of what it takes in fp32, where the processor has the instructions."""

STOPPED_LIMIT = 1 / 3


class Normalised(nn.Module):
    """A network behind the normalisation that attacks in pixel space need."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = timm.create_model(name)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1000) for pixels in [0, 1]."""
        return self.net((images - 0.5) / 0.5)


def frozen(name: str, device: torch.device) -> nn.Module:
    """The network with seeded random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Normalised(name).eval().requires_grad_(False).to(device)


def noise(images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images of uniform noise, and labels."""
    ids = [f"{i}.png" for i in range(images)]
    pixels = torch.from_numpy(rng.dense_uniforms(0, "bench", ids, (3, 224, 224)))
    return pixels.to(device), torch.arange(images).to(device)


def has_bf16(device: torch.device) -> str:
    """The instructions for products of bf16 numbers that there are, empty for none."""
    if device.type != "cpu":
        return device.type
    flags = Path("/proc/cpuinfo")
    known = flags.read_text().split() if flags.is_file() else []
    return ", ".join(name for name in ("amx_bf16", "avx512_bf16") if name in known)


def seconds(action: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, to the end of its work on the device."""
    _wait(device)
    started = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def turns(actions: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each action by turn; who begins changes from turn to turn."""
    names = list(actions)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(seconds(actions[name], device))
    return found


def ratio(found: dict[str, list[float]], one: str, other: str) -> float:
    """The median over turns of what ``one`` took over what ``other`` took."""
    return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))


def keeping(results: dict[str, Tensor], name: str, action: Callable[..., Tensor], *given: Any) -> Callable[[], None]:
    """``action`` of what is given, whose result is kept by name."""

    def kept() -> None:
        results[name] = action(*given)

    return kept


def against_torchattacks(name: str, images: int, repeats: int, device: torch.device) -> bool:
    """Print one line per precision; whether none is slower."""
    net, (pixels, labels) = frozen(name, device), noise(images, device)
    theirs = torchattacks.PGD(net, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)

    def native(precision: Any, steps: int = STEPS) -> Tensor:
        return pgd(net, pixels, labels, eps=EPS, step=STEP, steps=steps, precision=precision).images

    def library(precision: Any) -> Tensor:
        context: AbstractContextManager[Any] = nullcontext()
        if precision == "bf16":
            context = torch.autocast(device.type, dtype=torch.bfloat16)
        with context:
            return theirs(pixels, labels)

    precisions = ("fp32", "bf16") if has_bf16(device) else ("fp32",)
    actions: dict[str, Callable[[], Any]] = {}
    results: dict[str, Tensor] = {}
    for precision in precisions:
        native(precision, steps=1)
        for way, attack in {"native": native, "torchattacks": library}.items():
            actions[f"{way} {precision}"] = keeping(results, f"{way} {precision}", attack, precision)
    found = turns(actions, repeats, device)
    good = True
    for precision in precisions:
        ours, others = f"native {precision}", f"torchattacks {precision}"
        apart = ((results[ours] - results[others]).abs() > 1e-6).float().mean().item()
        share = ratio(found, ours, others)
        slower = share > SLOWER_LIMIT
        good &= not slower
        took, library_took = (statistics.median(found[way]) for way in (ours, others))
        print(
            f"{name:<24}{precision:<6}{took:>8.2f} s{library_took:>12.2f} s{share:>9.3f}{100 * apart:>12.4f} %"
            f"{'  slower' if slower else ''}"
        )
    if "bf16" in precisions:
        share = ratio(found, "native bf16", "native fp32")
        good &= share <= BF16_LIMIT
        print(f"{name:<24}bf16 takes {share:.2f} of what fp32 takes (limit {BF16_LIMIT:.2f})")
    return good


def trained(data: Path | None, images: int) -> tuple[str, Callable[[Tensor], Tensor], ImageBatch]:
    """A trained network's name and scores, and labelled images of its kind."""
    catalog = build_catalog(build_manager())
    is_real = data is not None and (data / VIT_TI).is_file() and (data / "imagenet_photos").is_dir()
    if is_real:
        assert data is not None
        name, weights = "vit_ti16", parse_weights(str(data / VIT_TI))
        dataset = dataset_component(catalog, "folder", str(data / "imagenet_photos")).dataset
    else:
        name, weights = "vit_mini", WeightsChoice(origin="pretrained")
        dataset = dataset_component(catalog, "shapes").dataset
    model = model_component(catalog, name, weights).build()
    split = dataset.info.query_split
    batch = dataset.load(split, range(min(images, len(dataset.index(split)))), model.info.view)
    return name, head_scores(model, dataset.info.label_space), batch


def stopping_early(data: Path | None, images: int, repeats: int, device: torch.device) -> bool:
    """Print what early stopping saves; whether it is enough, at no higher accuracy."""
    name, scores, batch = trained(data, images)
    pixels, labels = batch.images.to(device), batch.labels.to(device)
    start = random_points(pixels, EPS, "linf", seed=0, stream="bench", ids=batch.ids)
    given = {"eps": EPS, "step": EPS / 2, "steps": STOPPED_STEPS, "start": start}
    results: dict[str, Tensor] = {}

    def attack(further: dict[str, Any]) -> Tensor:
        return pgd(scores, pixels, labels, **given, **further).images

    ways: dict[str, dict[str, Any]] = {"on": {}, "stopped": {"select": "any", "early_stop": True}}
    found = turns({name: keeping(results, name, attack, way) for name, way in ways.items()}, repeats, device)
    with torch.inference_mode():
        clean, on, stopped = (
            (scores(seen).argmax(dim=1) == labels).float().mean().item()
            for seen in (pixels, results["on"], results["stopped"])
        )
    share = ratio(found, "stopped", "on")
    whole, part = (statistics.median(found[way]) for way in ("on", "stopped"))
    print(
        f"\n{name}, PGD-{STOPPED_STEPS} at {255 * EPS:g}/255 on {len(labels)} images: {whole:.2f} s, with early_stop "
        f"{part:.2f} s, ratio {share:.3f} (limit {STOPPED_LIMIT:.3f}); top-1 {clean:.3f} clean, {on:.3f} and "
        f"{stopped:.3f} attacked"
    )
    return share <= STOPPED_LIMIT and stopped <= on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--photographs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    print(
        f"PGD-{STEPS}, {given.batch_size} images of 224 px, {device}, {torch.get_num_threads()} threads, median of "
        f"{given.repeats}; bf16 instructions: {has_bf16(device) or 'none'}\n"
    )
    print(f"{'':<30}{'native':>10}{'torchattacks':>14}{'ratio':>9}{'pixels apart':>14}")
    good = [against_torchattacks(name, given.batch_size, given.repeats, device) for name in NETWORKS]
    good.append(stopping_early(given.data, given.photographs, given.repeats, device))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
