"""What a model costs: what it is made of, what it computes, and the memory and time that a forward pass takes here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.built_facts import count_macs, count_parameters, torch_modules
from harness.errors import HarnessError
from harness.forward import Forward, is_out_of_memory, release_memory
from harness.options import Counters
from harness.params import canonical, checked
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo
from harness.types import FeatureTable, Measurement, OutputSpec
from harness_inspect import machine_load
from harness_inspect.activation_memory import peak_of_new_tensors
from harness_inspect.answers import whole_pass
from harness_inspect.cost import CostParams
from harness_inspect.model_inspection import ModelFindings, measured_model
from harness_inspect.model_probe import ModelProbe
from harness_inspect.timed_passes import Passes, finish, timed_rounds

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from harness.protocols import Model

SECONDS = "seconds."
"""In front of a batch size: the duration in seconds of each of its passes, (P,) float64."""
ROUNDS = "rounds."
"""In front of a batch size: the round that each of its passes belongs to, (P,) int64."""

MIB = 2**20

NOISY = 0.1
"""``timing_spread`` and ``other_load`` above which a machine counts as noisy."""

TIMED = "repetitions"
"""What the rows taken by the clock count: passes or rounds. They are others in every run."""


class CostProbe(ModelProbe):
    """Size, computation, memory and speed of inference at the model's own input size, in the precision of the run.

    Asked for are the logits; of a model without a head the pooled vector, or the last block's tokens. The images are
    one ramp from black to white, over and over: what they show changes no cost.

    Of the model alone, the same on any machine:

    - ``parameters``, in millions: elements of all parameters, shared ones once; buffers are none.
    - ``macs``, in billions (what papers call "FLOPs (B)"): multiply-accumulates for one image in matrix products,
      convolutions and attention, both of its products included, whether or not a fused kernel computes them. Norms,
      activations, softmax, pooling, biases and resizing are left out.
    - ``flops``, in billions: 2 ``macs``, as :class:`torch.utils.flop_counter.FlopCounterMode` counts.
    - ``weight_memory``, in MiB: parameters and buffers.

    Of the model on a kind of device, whose kernels differ (fused attention keeps no map):

    - ``activation_memory``, in MiB for each ``batch``: most that tensors made in a pass hold at one moment, by
      :func:`~harness_inspect.activation_memory.peak_of_new_tensors`; under autocast the weights' copies are among them.
    - ``working_memory``, in MiB for each ``batch``: weights, images and activations together.

    Of the model on the machine at hand, which a record's environment describes; its key does not:

    - ``peak_memory``, in MiB for each ``batch``, on CUDA alone: weights, images and the most that torch's allocator
      handed out beyond them, kernels' workspaces included. What other models hold at the time is left out.
    - ``latency``, in ms for each ``batch``: median duration of a pass; from its 10th to its 90th percentile.
    - ``throughput``, in images per second for each ``batch``: images over the median duration of a pass in a round,
      median of the rounds; from the slowest round to the fastest, which holds the machine's median with a probability
      of 1 - 2^(1 - rounds), if rounds are independent (0.97 of 6).
    - ``timing_spread`` for each ``batch``: by what share the slowest round is above the fastest.
    - ``other_load``, on Linux: the share of the machine's processors that other processes had during the rounds. A
      machine that is busy all the while is slow in every round alike, which no spread shows.

    Where either is above :data:`NOISY` something else kept the machine busy, and times are not to be relied on.

    After ``warm_up`` passes, rounds of at least ``round_seconds`` take turns between the batch sizes. Published
    throughputs are of one V100 in fp32 (facebookresearch/deit, issues 38 and 189).
    """

    def __init__(
        self,
        *,
        batch_sizes: tuple[int, ...] = (1, 16),
        rounds: int = 6,
        round_seconds: float = 0.2,
        warm_up: int = 3,
    ) -> None:
        params = CostParams(batch_sizes=batch_sizes, rounds=rounds, round_seconds=round_seconds, warm_up=warm_up)
        self._params = checked(params, "cost")
        super().__init__(ProbeInfo(name="cost", of_model=True, headline="macs", params=canonical(self._params)))

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """Measure the model; takes about ``rounds`` times ``round_seconds`` for each batch size.

        Raises :class:`~harness.errors.CapabilityError` for a model that gives nothing that could be asked for, and
        :class:`~harness.errors.HarnessError` for a batch size that memory does not hold, naming those it does.
        """
        model = measured_model(context, "cost")
        device = context.device or torch.device("cpu")
        forward = Forward(device=device, precision=context.precision, counters=Counters())
        want = whole_pass(model.info)
        image = ramp(model.info.input_size, device)
        macs = macs_of(lambda: forward(model, image, want))
        weights = _bytes_of_weights(model)
        rows = [
            _of_model("parameters", count_parameters(model) / 1e6, "million"),
            _of_model("macs", macs / 1e9, "billion"),
            _of_model("flops", 2 * macs / 1e9, "billion"),
            _of_model("weight_memory", weights / MIB, "MiB"),
        ]
        passes: dict[int, Callable[[], object]] = {}
        for size in self._params.batch_sizes:
            with _memory_must_hold(size, [*passes], model.info.name, device):
                images = image.repeat(size, 1, 1, 1)
                passes[size] = _pass(forward, model, images, want)
                rows += self._memory(passes[size], forward, model, images, want, weights)
        before = machine_load.read()
        times = timed_rounds(
            passes, rounds=self._params.rounds, round_seconds=self._params.round_seconds, device=device
        )
        load = machine_load.other_load(before, machine_load.read())
        arrays: dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]] = {}
        for size, found in times.items():
            rows += timing(size, found)
            arrays |= {f"{SECONDS}{size}": found.seconds, f"{ROUNDS}{size}": found.rounds}
        if load is not None:
            rounds = self._params.rounds
            rows.append(Measurement(metric="other_load", value=load, n=rounds, counted=TIMED, higher_is_better=False))
        passes.clear()
        release_memory(device)
        return ModelFindings(rows, arrays)

    def _memory(
        self,
        run: Callable[[], object],
        forward: Forward,
        model: Model,
        images: Tensor,
        want: OutputSpec,
        weights: int,
    ) -> list[Measurement]:
        """The rows about the memory of one batch size; the passes for it are those that warm up."""
        for _ in range(self._params.warm_up):
            run()

        def plain() -> None:
            with forward.autocast():
                model.outputs(images, want)

        dims = {"batch": len(images)}
        activations, held = peak_of_new_tensors(plain), weights + _bytes(images)
        rows = [
            _of_model("activation_memory", activations / MIB, "MiB", **dims),
            _of_model("working_memory", (held + activations) / MIB, "MiB", **dims),
        ]
        if forward.device.type == "cuda":
            peak = held + _peak_allocated(run, forward.device)
            rows.append(_of_model("peak_memory", peak / MIB, "MiB", **dims))
        return rows


def ramp(side_px: int, device: torch.device) -> Tensor:
    """One image (1, 3, ``side_px``, ``side_px``) float32, from black to white."""
    return torch.linspace(0, 1, 3 * side_px * side_px, device=device).reshape(1, 3, side_px, side_px)


def macs_of(run: Callable[[], object]) -> int:
    """Multiply-accumulates of a forward pass, those of attention included on every device.

    torch's counter knows the products that fused attention computes on CUDA, but not those of its kernel for the CPU,
    nor those of a transformer layer's fast path: here attention is computed as plain products while they are counted.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return count_macs(run)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def timing(size: int, found: Passes) -> list[Measurement]:
    """The rows about the time that passes of ``size`` images took."""
    milliseconds = 1000 * found.seconds
    low, high = np.quantile(milliseconds, [0.1, 0.9])
    rates = size / found.round_medians
    dims = {"batch": size}
    return [
        Measurement(
            metric="latency",
            dims=dims,
            value=float(np.median(milliseconds)),
            low=float(low),
            high=float(high),
            interval="p10_p90",
            n=len(milliseconds),
            counted=TIMED,
            unit="ms",
            higher_is_better=False,
        ),
        Measurement(
            metric="throughput",
            dims=dims,
            value=float(np.median(rates)),
            low=float(rates.min()),
            high=float(rates.max()),
            interval="range",
            n=len(rates),
            counted=TIMED,
            unit="images/s",
            higher_is_better=True,
        ),
        Measurement(
            metric="timing_spread",
            dims=dims,
            value=found.spread,
            n=len(rates),
            counted=TIMED,
            higher_is_better=None,
        ),
    ]


def _of_model(metric: str, value: float, unit: str, **dims: int) -> Measurement:
    return Measurement(metric=metric, dims=dims, value=value, n=1, counted="models", unit=unit, higher_is_better=False)


def _pass(forward: Forward, model: Model, images: Tensor, want: OutputSpec) -> Callable[[], object]:
    return lambda: forward(model, images, want)


@contextmanager
def _memory_must_hold(size: int, before: list[int], model: str, device: torch.device) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # only out of memory is turned into words
        if not is_out_of_memory(error):
            raise
        release_memory(device)
        raise HarnessError(
            f"cost of {model}: a batch of {size} images does not fit into the memory of {device}",
            hint=f"{' and '.join(map(str, before))} fit: give batch_sizes={'+'.join(map(str, before))}"
            if before
            else "give smaller batch_sizes",
        ) from error


def _peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes that torch's allocator handed out during ``run`` beyond what it had handed out before."""
    finish(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    finish(device)
    return torch.cuda.max_memory_allocated(device) - before


def _bytes_of_weights(model: Model) -> int:
    held = {}
    for module in torch_modules(model):
        for tensor in (*module.parameters(), *module.buffers()):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(held.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
