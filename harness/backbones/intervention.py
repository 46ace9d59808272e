"""Open interventions of one model: which functions change the tokens that enter which site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from harness.errors import CapabilityError, ParameterError
from harness.naming import did_you_mean
from harness.protocols import SiteTokens


class Interventions:
    """The interventions in force, in order of opening. ``droppable``: whether they may take patches away."""

    def __init__(self, model: str, sites: Sequence[str], *, droppable: bool) -> None:
        self._model = model
        self._droppable = droppable
        self._open: dict[str, list[tuple[Callable[[SiteTokens], SiteTokens], tuple[str, ...]]]] = {s: [] for s in sites}

    @contextmanager
    def opened(self, site: str, fn: Callable[[SiteTokens], SiteTokens], ids: tuple[str, ...]) -> Iterator[None]:
        """``fn`` is in force at ``site`` while the context is open; raises ``CapabilityError`` for an unknown site."""
        if site not in self._open:
            raise CapabilityError(
                f"model {self._model} has no site {site!r}",
                hint=did_you_mean(site, self._open) or f"its sites are {', '.join(self._open)}",
            )
        entry = (fn, ids)
        self._open[site].append(entry)
        try:
            yield
        finally:
            self._open[site] = [other for other in self._open[site] if other is not entry]

    def at(self, site: str) -> bool:
        """Whether anything is in force at ``site``."""
        return bool(self._open.get(site))

    def apply(
        self, site: str, prefix: Tensor, patches: Tensor, grid: tuple[int, int], kept: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (N, P, D) and (N, K, D) and kept indices (N, K) or None, as they leave the functions at ``site``."""
        for fn, ids in self._open.get(site, ()):
            if len(ids) != len(patches):
                raise ParameterError(
                    f"the intervention at {site} was opened for {len(ids)} ids, but {len(patches)} images came"
                )
            given = SiteTokens(prefix=prefix, patches=patches, grid=grid, ids=ids, kept=kept)
            result = fn(given)
            self._check(site, given, result)
            prefix, patches, kept = result.prefix, result.patches, result.kept
        return prefix, patches, kept

    def _check(self, site: str, given: SiteTokens, result: SiteTokens) -> None:
        count = given.grid[0] * given.grid[1] if result.kept is None else result.kept.shape[1]
        expected = (given.patches.shape[0], count, given.patches.shape[2])
        if result.prefix.shape != given.prefix.shape or tuple(result.patches.shape) != expected:
            raise ParameterError(
                f"the intervention at {site} returned prefix {tuple(result.prefix.shape)} and patches "
                f"{tuple(result.patches.shape)} instead of {tuple(given.prefix.shape)} and {expected}",
                hint="an intervention that drops patches says in kept, (N, K), which are left",
            )
        if count != given.patches.shape[1] and not self._droppable:
            raise CapabilityError(f"model {self._model} needs every patch at {site}; none can be dropped there")
