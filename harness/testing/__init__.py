"""The contract kit: runs the promises of :mod:`harness.protocols` against a component, by name or instance.

Three front ends over one generator of checks: :func:`run_checks` gives outcomes, :func:`parametrize_contract` gives
pytest tests, and ``harness check NAME`` prints a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.testing.kit import (
    Check,
    CheckOutcome,
    ContractViolation,
    SampleOptions,
    Subject,
    check_named,
    iter_checks,
    run_checks,
    subject_named,
)

if TYPE_CHECKING:
    from harness.testing.pytest_front import parametrize_contract

__all__ = [
    "Check",
    "CheckOutcome",
    "ContractViolation",
    "SampleOptions",
    "Subject",
    "check_named",
    "iter_checks",
    "parametrize_contract",
    "run_checks",
    "subject_named",
]


def __getattr__(name: str) -> Any:
    # `harness check` works where pytest is not installed.
    if name == "parametrize_contract":
        from harness.testing.pytest_front import parametrize_contract

        return parametrize_contract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
