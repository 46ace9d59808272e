"""What wrapping costs: ``python tests/benchmarks/bench_backbones.py``.

Memory: what a forward pass of ViT-L/16 needs at its peak beyond what is held before it, through the wrapper for logits
alone and through timm's bare network, as the resident memory of the process (Linux) or by CUDA's allocator. Time: the
same pass of ViT-S/16 and ResNet-50 for logits alone, with the tokens of four blocks, and through the bare network,
taking turns in one process; the ratio is that of medians.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.transforms.v2.functional import normalize

from harness.catalog import build_catalog
from harness.manager import build_manager
from harness.types import ModelInfo, OutputSpec
from harness.weights import WeightsChoice

MEMORY_LIMIT = 1.05
TIME_LIMIT = 1.03
LOGITS = OutputSpec(logits=True)
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def built(name: str, device: str) -> object:
    """The preset with random weights."""
    catalog = build_catalog(build_manager())
    resolved = catalog.resolve("model", name)
    target = catalog.load_target(resolved.entry)
    return target(**resolved.arguments, weights=WeightsChoice(origin="random")).to(device)


def passes(model: object, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The forward passes that are compared."""
    info: ModelInfo = model.info
    blocks = frozenset(range(info.num_blocks)[-4:])
    mean, std = list(info.mean), list(info.std)
    return {
        "bare": lambda: model.net(normalize(images, mean, std)),
        "logits": lambda: model.outputs(images, LOGITS),
        "logits and tokens of 4 blocks": lambda: model.outputs(images, LOGITS | OutputSpec(tokens=blocks)),
    }


def peak_mib(run: Callable[[], object], device: str) -> float:
    """MiB that ``run`` needs at its peak beyond what is held before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    RESET.write_text("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """KiB."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))


def memory(device: str, batch: int, repeats: int) -> float:
    """The wrapper's peak over the bare network's."""
    model = built("vit_l16", device)
    compared = passes(model, torch.rand(batch, 3, 224, 224, device=device))
    found: dict[str, list[float]] = {"bare": [], "logits": []}
    for _ in range(repeats + 1):
        for name, values in found.items():
            values.append(peak_mib(compared[name], device))
    peaks = {name: statistics.median(values[1:]) for name, values in found.items()}
    ratio = peaks["logits"] / peaks["bare"]
    print(f"vit_l16, batch {batch}: bare {peaks['bare']:.0f} MiB, wrapped {peaks['logits']:.0f} MiB, ratio {ratio:.3f}")
    return ratio


def seconds(name: str, device: str, batch: int, repeats: int) -> float:
    """The pass that gives tokens of four blocks, over the one for logits alone."""
    compared = passes(built(name, device), torch.rand(batch, 3, 224, 224, device=device))
    spent: dict[str, list[float]] = {what: [] for what in compared}
    for _ in range(repeats + 1):
        for what, run in compared.items():
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            spent[what].append(time.perf_counter() - started)
    median = {what: statistics.median(values[1:]) for what, values in spent.items()}
    shown = ", ".join(f"{what} {1000 * value:.0f} ms" for what, value in median.items())
    ratio = median["logits and tokens of 4 blocks"] / median["logits"]
    print(f"{name}, batch {batch}: {shown}; tokens / logits {ratio:.3f}, logits / bare", end=" ")
    print(f"{median['logits'] / median['bare']:.3f}")
    return ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    with torch.inference_mode():
        over = [memory(given.device, given.batch, 3) > MEMORY_LIMIT]
        presets = ("vit_s16", "resnet50")
        over += [seconds(preset, given.device, given.batch, given.repeats) > TIME_LIMIT for preset in presets]
    sys.exit(any(over))
