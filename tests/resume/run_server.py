"""A warm process that runs grids in forked children, each of which may be told where to die by SIGKILL.

Started as a script by the fixture of this folder. One JSON job per line on stdin, one JSON answer per line on stdout.
It imports everything before it forks and never computes anything itself, so that it has no threads to lose.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # noqa: F401 - pyarrow imports it when it writes; imported once, here, for every child
import pyarrow.parquet  # noqa: F401 - as above
import safetensors  # noqa: F401 - as above
import torch
from torch import nn

from harness import checkpoints
from harness.adapters import wrap_module
from harness.api import RunResult, Setup, run_asked
from harness.hookspecs import hookimpl
from harness.options import RunOptions
from harness.planning import RunPlan
from harness.progress import TextProgress
from harness.records import RecordStore
from harness.request import Asked
from harness.tensor_dataset import TensorDataset
from harness.types import ResultRecord, View
from harness_patchdrop import random_drop  # noqa: F401 - as above
from harness_probes import fewshot_probe, head_probe  # noqa: F401 - as above

SIDE_PX = 16
CLASSES = 3
SUPPORT_IMAGES = 18


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Dies at the n-th call after :meth:`arm`."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self._armed = False

    def arm(self) -> None:
        self._armed = True

    def due(self) -> bool:
        self._left -= self._armed
        return self._armed and self._left == 0

    def __call__(self) -> None:
        if self.due():
            die()


class TinyNet(nn.Module):
    """Colour statistics through a random convolution; ``on_forward`` is called with every batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # In float64, whose rounding float32 scores do not show: likelihoods would tell where in memory a batch lay.
        self.double()
        self.on_forward: list[Callable[[torch.Tensor], None]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for call in self.on_forward:
            call(x)
        return self.fc(torch.relu(self.conv(x.double())).mean((2, 3))).float()


class Observer:
    """Kills at its moments, and arms the countdown when the run begins."""

    def __init__(self, countdown: Countdown | None, moment: str | None) -> None:
        self._countdown = countdown
        self._moment = moment

    @hookimpl
    def harness_run_started(self, plan: RunPlan) -> None:
        if self._countdown is not None:
            self._countdown.arm()

    @hookimpl
    def harness_record_written(self, record: ResultRecord) -> None:
        if self._countdown is not None and self._moment == "after_record":
            self._countdown()


def dataset(images: int) -> TensorDataset:
    """Noisy squares in three colours; every image differs."""
    rng = np.random.default_rng(5)

    def part(count: int) -> tuple[Any, Any]:
        labels = np.arange(count) % CLASSES
        pixels = rng.integers(0, 140, (count, 3, SIDE_PX, SIDE_PX), dtype=np.uint8)
        pixels[np.arange(count), labels] += 90
        return pixels, labels

    support = part(SUPPORT_IMAGES)
    return TensorDataset(*part(images), name="squares", label_space="colours", support=support)


def model(name: str, seed: int, calls: list[Callable[[torch.Tensor], None]]) -> Any:
    net = TinyNet(seed)
    wrapped = wrap_module(
        net,
        name=name,
        view=View(crop=SIDE_PX),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        label_space="colours",
        pooled_input_of="fc",
    )
    net.on_forward = calls
    return wrapped


def install(moment: str, countdown: Countdown, calls: list[Callable[[torch.Tensor], None]]) -> None:
    """Put the countdown where ``moment`` says."""
    kind, _, detail = moment.partition(":")
    if kind == "in_forward":
        calls.append(lambda _: countdown())
    elif kind == "before_rename":
        rename = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if detail in self.name:
                countdown()
            return rename(self, target)

        Path.replace = replace  # type: ignore[method-assign]
    elif kind == "in_checkpoint":
        replacing = checkpoints.replacing

        @contextmanager
        def half_written(path: Path) -> Iterator[Path]:
            with replacing(path) as temporary:
                yield temporary
                if countdown.due():
                    os.truncate(temporary, temporary.stat().st_size // 2)
                    die()

        checkpoints.replacing = half_written
    elif kind == "before_record":
        append = RecordStore.append

        def killed_append(self: RecordStore, record: ResultRecord) -> bool:
            countdown()
            return append(self, record)

        RecordStore.append = killed_append  # type: ignore[method-assign]
    elif kind == "in_record":
        write = os.write

        def write_half(descriptor: int, data: Any) -> int:
            if bytes(data[:10]) == b'{"schema":' and countdown.due():
                write(descriptor, data[: len(data) // 2])
                die()
            return write(descriptor, data)

        os.write = write_half
    elif kind == "before_checkpoint_removal":
        remove = checkpoints.remove

        def killed_remove(folder: Path, pass_id: str) -> None:
            countdown()
            remove(folder, pass_id)

        checkpoints.remove = killed_remove
    elif kind == "before_checkpoint_drop":
        drop = checkpoints.drop

        def killed_drop(folder: Path, pass_id: str, keys: Any) -> None:
            countdown()
            drop(folder, pass_id, keys)

        checkpoints.drop = killed_drop
    elif kind != "after_record":
        raise ValueError(moment)


def out_of_memory_above(images: int) -> Callable[[torch.Tensor], None]:
    """As if larger batches did not fit."""

    def call(x: torch.Tensor) -> None:
        if len(x) > images:
            raise MemoryError(f"{len(x)} images")

    return call


def interrupt_at(calls: int) -> Callable[[torch.Tensor], None]:
    """Ctrl-C, as a terminal sends it, during the given forward pass."""
    left = calls

    def call(_: torch.Tensor) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    return call


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Run the job in this process; what came of it."""
    seen: list[tuple[int, int]] = []
    calls: list[Callable[[torch.Tensor], None]] = []
    if job.get("memory_images"):
        calls.append(out_of_memory_above(job["memory_images"]))
    calls.append(lambda x: seen.append((len(x), torch.get_num_threads())))
    if job.get("seconds_per_forward"):
        calls.append(lambda _: time.sleep(job["seconds_per_forward"]))
    if job.get("interrupt_at"):
        calls.append(interrupt_at(job["interrupt_at"]))
    moment, countdown = job.get("moment"), None
    if moment is not None:
        countdown = Countdown(job["count"])
        install(moment, countdown, calls)
    torch.set_num_threads(job.get("threads", 1))
    asked = Asked(
        models=[model(f"tiny{seed}", seed, calls) for seed in job["models"]],
        datasets=[dataset(job["images"])],
        perturbations=job["perturbations"],
        probes=job["probes"],
        seeds=job["seeds"],
    )
    seen.clear()
    started = time.perf_counter()
    result: RunResult = run_asked(
        Setup(plugins=[("observer", Observer(countdown, moment))]).open(),
        asked,
        out=job["out"],
        options=RunOptions(
            batch_size=job["batch_size"],
            checkpoint_every=job["checkpoint_every"],
            workers=job.get("workers", 2),
            cache_dir=Path(job["cache"]),
        ),
        progress=TextProgress(),
    )
    return {
        "seconds": time.perf_counter() - started,
        "records": len(result.records),
        "reused": result.reused,
        "summaries": len(result.summaries),
        "failures": [failure.message for failure in result.failures],
        "forward_images": result.counters.forward_images,
        "decoded_images": result.counters.decoded_images,
        "cached_tables": result.counters.cached_tables,
        "forwards": seen,
        "threads_after": torch.get_num_threads(),
    }


def child(job: dict[str, Any], log: Path, answer_path: Path) -> None:
    """The forked process: everything it says on stderr goes to ``log``."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    from harness.cli.root import fail
    from harness.errors import HarnessError

    try:
        answer_path.write_text(json.dumps(answer(job)))
    except HarnessError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


def forked(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run the job in a child, killed after ``kill_after_s`` if it is still there; its exit status and answer."""
    log, answer_path = scratch / "stderr.txt", scratch / "answer.json"
    answer_path.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            child(job, log, answer_path)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if job.get("kill_after_s"):
        time.sleep(job["kill_after_s"])
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "stderr": log.read_text(),
        "answer": json.loads(answer_path.read_text()) if answer_path.exists() else None,
    }


def main() -> None:
    scratch = Path(sys.argv[1])
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line), scratch)), flush=True)


if __name__ == "__main__":
    main()
