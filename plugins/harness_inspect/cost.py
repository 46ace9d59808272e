"""Descriptor of the measurement of what a model costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.entries import ProbeEntry
from harness.errors import ParameterError
from harness.hookspecs import hookimpl
from harness.params import param

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class CostParams:
    """Parameters of ``cost``."""

    batch_sizes: tuple[int, ...] = param(
        (1, 16), help="images that go through the model at once, each size measured", unit="images", low=1, high=65536
    )
    rounds: int = param(
        6, help="rounds of passes, spread over the measurement; their medians are compared", low=3, high=1000
    )
    round_seconds: float = param(
        0.2, help="least duration of a round; it holds one pass at least", unit="seconds", low=0, high=3600
    )
    warm_up: int = param(3, help="passes of each batch size ahead of all rounds, not counted", low=1, high=10_000)

    def __post_init__(self) -> None:
        sizes = self.batch_sizes
        if not sizes or len(set(sizes)) != len(sizes):
            raise ParameterError(
                f"cost: batch_sizes must name one size or more, each once, not {'+'.join(map(str, sizes)) or 'none'}",
                hint="for example batch_sizes=1+16",
            )
        object.__setattr__(self, "batch_sizes", tuple(sorted(sizes)))


@hookimpl
def harness_register_probes() -> Iterable[ProbeEntry]:
    """Offer ``cost``."""
    yield ProbeEntry(
        name="cost",
        target="harness_inspect.cost_probe:CostProbe",
        summary="parameters, MACs and FLOPs, memory, latency and throughput on the machine at hand",
        params=CostParams,
        of_model=True,
        headline="macs",
        exhibit="harness_inspect.cost_exhibit:exhibit",
    )
