"""What else the machine does meanwhile: the share of its processors that other processes take."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_COUNTERS = Path("/proc/stat")
_IDLE = (3, 4)
"""Of the counters of ``cpu`` in proc(5): idle, and waiting for input and output."""
_BUSY = 8
"""As many counters tell time apart; the rest (guests) are contained in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Seconds since some beginning: of the clock, of all processors at work, and of those that this process had."""

    clock: float
    busy: float
    own: float


def read() -> Reading | None:
    """The counters now; None where the system has none (other than Linux) or keeps them to itself."""
    try:
        name, *counters = _COUNTERS.read_text(encoding="ascii").splitlines()[0].split()
        ticks = [int(counter) for counter in counters[:_BUSY]]
    except (OSError, ValueError, IndexError):
        return None
    if name != "cpu" or len(ticks) <= max(_IDLE):
        return None
    busy = sum(ticks) - sum(ticks[place] for place in _IDLE)
    own = os.times()
    return Reading(
        clock=time.monotonic(),
        busy=busy / os.sysconf("SC_CLK_TCK"),
        own=own.user + own.system + own.children_user + own.children_system,
    )


def other_load(before: Reading | None, after: Reading | None) -> float | None:
    """Share in [0, 1] of the machine's processors that others had between two readings; None if that is not known."""
    if before is None or after is None or after.clock <= before.clock:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    return min(1.0, max(0.0, others / ((after.clock - before.clock) * (os.cpu_count() or 1))))
