"""What perturbing costs beside a forward pass, and what leaving tokens out saves.

``python tests/benchmarks/bench_patchdrop.py`` times, for every perturbation of pixels in the PatchDrop family with
every fill, ``begin`` and ``apply`` of one level on a batch of 224 px images, as a share of the forward pass of a
ViT-S/16 over the same batch, and ``apply`` alone, which is all that a further level of a sweep costs; and that model
with 75 % of its tokens dropped against all of them. Those that take their order from another model's saliency are left
out: they pay for that model, once an image. All take turns, so that a slow spell of the machine meets every one of
them; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch

from harness import rng
from harness.catalog import build_catalog
from harness.components import model_component
from harness.entries import PerturbationEntry
from harness.manager import build_manager
from harness.params import describe
from harness.protocols import Model, PerturbationContext
from harness.targets import load_target
from harness.types import ImageBatch, OutputSpec
from harness.weights import WeightsChoice
from harness_patchdrop.parameters import FillName
from harness_patchdrop.plugin import harness_register_perturbations
from harness_patchdrop.token_drop import TokenDrop

MODEL = "vit_s16"
SHARE_LIMIT = 0.05
DROPPED = 0.75
SPEED_LIMIT = 3.5
WANT = OutputSpec(logits=True)


def vit_s16(device: torch.device) -> Model:
    """The preset as the command line builds it, with random weights."""
    catalog = build_catalog(build_manager())
    return model_component(catalog, MODEL, WeightsChoice(origin="random")).build().to(device)


def noise_batch(images: int, side_px: int, device: torch.device) -> ImageBatch:
    """Images of uniform noise."""
    ids = tuple(f"{i}.png" for i in range(images))
    pixels = torch.from_numpy(rng.dense_uniforms(0, "bench", ids, (3, side_px, side_px)))
    return ImageBatch(
        images=pixels, labels=torch.zeros(images, dtype=torch.int64), ids=ids, positions=np.arange(images)
    ).to(device)


def variants() -> list[tuple[str, PerturbationEntry, dict[str, Any]]]:
    """Every perturbation of pixels that needs no other model, with each of its fills: label, entry and parameters."""
    found = []
    for entry in harness_register_perturbations():
        if entry.stage != "image" or entry.model_params:
            continue
        filled = any(row.name == "fill" for row in describe(entry.params))
        for fill in get_args(FillName) if filled else (None,):
            params = {} if fill is None else {"fill": fill}
            found.append((entry.name + "".join(f":fill={value}" for value in params.values()), entry, params))
    return found


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, to the end of its work on the device."""
    _wait(device)
    started = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def perturbing(
    entry: PerturbationEntry, params: dict[str, Any], context: PerturbationContext, batch: ImageBatch
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two calls at the middle level of the sweep: begin and apply, and apply alone, as for every further level."""
    perturbation: Any = load_target(entry)(**params)
    perturbation.prepare(context)
    level = None if entry.level is None else entry.level.values[len(entry.level.values) // 2]
    state = perturbation.begin(batch)
    return (
        lambda: perturbation.apply(batch, perturbation.begin(batch), level),
        lambda: perturbation.apply(batch, state, level),
    )


def forwarding(model: Model, batch: ImageBatch) -> Callable[[], object]:
    """A call that forwards the whole batch."""
    return lambda: model.outputs(batch.images, WANT)


def dropping(model: Model, context: PerturbationContext, batch: ImageBatch) -> Callable[[], object]:
    """A call that forwards the batch with most tokens dropped, as the engine does for one level."""
    perturbation = TokenDrop()
    perturbation.prepare(context)

    def action() -> object:
        with perturbation.around(model, batch, perturbation.begin(batch), DROPPED) as (surrounded, perturbed):
            return surrounded.outputs(perturbed.images, WANT)

    return action


def medians(actions: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each action, all taking turns after one round to warm up."""
    with torch.inference_mode():
        for action in actions.values():
            action()
        rounds = [{name: seconds(action, device) for name, action in actions.items()} for _ in range(repeats)]
    return {name: statistics.median(row[name] for row in rounds) for name in actions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    device = torch.device(given.device)
    model = vit_s16(device)
    batch = noise_batch(given.batch_size, model.info.input_size, device)
    context = PerturbationContext(
        seed=0,
        view=model.info.view,
        device=device,
        dataset_fingerprint="bench",
        num_classes=2,
        evaluated=model,
        num_images=50_000,
    )
    actions: dict[str, Callable[[], object]] = {
        "whole": forwarding(model, batch),
        "dropped": dropping(model, context, batch),
    }
    labels = []
    for label, entry, params in variants():
        labels.append(label)
        actions[label], actions[f"{label} again"] = perturbing(entry, params, context, batch)
    found = medians(actions, given.repeats, device)
    whole, dropped = found["whole"], found["dropped"]
    print(
        f"{MODEL}, random weights, fp32: {1000 * whole:.1f} ms for {len(batch)} images of {model.info.input_size} px; "
        f"{device}, {torch.get_num_threads()} threads, median of {given.repeats}\n"
    )
    print(f"{'':<34}{'begin and apply':>20}{'a further level':>18}")
    over = []
    for label in labels:
        share, again = found[label] / whole, found[f"{label} again"] / whole
        late = share > SHARE_LIMIT
        over += [label] if late else []
        print(
            f"{label:<34}{1000 * found[label]:>9.1f} ms{100 * share:>6.2f} %{100 * again:>16.2f} %"
            f"{'  too slow' if late else ''}"
        )
    print(f"\nlimit {100 * SHARE_LIMIT:g} %: {', '.join(over) or 'none'} above it")
    print(
        f"tokendrop@{DROPPED:g}: {1000 * dropped:.1f} ms, {whole / dropped:.2f} times as fast as every token "
        f"(limit {SPEED_LIMIT})"
    )
    return 0 if not over and whole / dropped >= SPEED_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
