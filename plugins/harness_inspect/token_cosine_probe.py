"""How alike two tokens of a model are: Naseer et al. (arXiv 2105.10497), section 3.3; DeiT (arXiv 2012.12877)."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from harness import stats
from harness.errors import CapabilityError, DataError
from harness.features import require_features
from harness.params import canonical, checked
from harness.protocols import FittedProbe, Outcomes, Probe, ProbeContext, ProbeInfo, ProbeRun
from harness.token_ensemble import TokenEnsemble
from harness.types import (
    BlockTokens,
    Capability,
    FeatureSpec,
    FeatureTable,
    ImageBatch,
    JSONScalar,
    Measurement,
    ModelInfo,
    ModelOutputs,
    OutputSpec,
)
from harness_inspect.inspection import Found, InspectionRun
from harness_inspect.token_cosine import ALL, PATCH, TokenCosineParams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from harness_inspect.inspection import Arrays


class TokenCosineProbe(Probe):
    """Cosine between every two of the ``tokens``, for each image and each of the ``blocks``.

    ``tokens``: names of prefix tokens, and ``patch`` for the mean patch token; ``all`` prefix tokens of the model. A
    model with one prefix token alone is compared with its mean patch token. ``norm``: after the final norm, as in the
    published comparison of class and shape tokens, or as the tokens leave their blocks.
    """

    def __init__(self, *, tokens: str = ALL, blocks: str = "all", norm: bool = True) -> None:
        self._params = checked(TokenCosineParams(tokens=tokens, blocks=blocks, norm=norm), "token_cosine")
        self._info = ProbeInfo(name="token_cosine", headline="token_cosine", params=canonical(self._params))

    @property
    def info(self) -> ProbeInfo:
        """Its card."""
        return self._info

    def wants(self, model: ModelInfo) -> OutputSpec:
        """The tokens of the blocks.

        Raises :class:`~harness.errors.CapabilityError` for a model without tokens, without those, or with no two.
        """
        return self._spec(model).outputs(model.num_blocks)

    def features(self, model: ModelInfo) -> None:
        """None: nothing is learnt."""

    def select_support(self, labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:  # noqa: ARG002  # the contract's
        """No images."""
        return np.empty(0, np.int64)

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # as above
        """The pairs and blocks of this model."""
        model = context.model
        return FittedTokenCosine(
            model=model,
            pairs=tuple(combinations(self._tokens(model), 2)),
            blocks=tuple(sorted(self._spec(model).resolve_blocks(model.num_blocks))),
            norm=self._params.norm,
        )

    def _tokens(self, model: ModelInfo) -> tuple[str, ...]:
        if self._params.tokens != ALL:
            return tuple(self._params.tokens.split("+"))
        if Capability.TOKENS in model.capabilities and not model.prefix:
            raise CapabilityError(
                f"model {model.name} has patch tokens alone, and no two tokens to compare",
                hint="take a transformer with a class token, or a distilled one",
            )
        return model.prefix if len(model.prefix) > 1 else (*model.prefix, PATCH)

    def _spec(self, model: ModelInfo) -> FeatureSpec:
        """What is read, as a feature vector: it knows how to refuse what a model has not."""
        named = self._tokens(model)
        prefix = tuple(name for name in named if name != PATCH)
        blocks = TokenEnsemble.parse(f"patches/{self._params.blocks}").spec(model).blocks
        spec = FeatureSpec(
            blocks=blocks, prefix=prefix, mean_patch="each" if PATCH in named else "none", norm=self._params.norm
        )
        require_features(spec, model)
        return spec


class FittedTokenCosine(FittedProbe):
    """The ``pairs`` of tokens that are compared in each of ``blocks``."""

    name = "token_cosine"
    columns: Mapping[str, npt.DTypeLike] = {"cosine": np.float32}
    shown_images = 0

    def __init__(
        self, *, model: ModelInfo, pairs: Sequence[tuple[str, str]], blocks: Sequence[int], norm: bool
    ) -> None:
        self._model, self._pairs, self._blocks, self._norm = model, tuple(pairs), tuple(blocks), norm
        self.variants: tuple[Mapping[str, JSONScalar], ...] = tuple(
            {"block": block, "tokens": "-".join(pair)} for block in self._blocks for pair in self._pairs
        )

    def start(self) -> ProbeRun:
        """Fresh counters."""
        return InspectionRun(self)

    def scores(self, outputs: ModelOutputs) -> None:
        """None: it scores nothing."""

    def inspect(self, batch: ImageBatch, outputs: ModelOutputs, clean: ModelOutputs | None) -> Found:  # noqa: ARG002  # the contract's
        """The cosines of every image.

        Raises :class:`~harness.errors.CapabilityError` for a block that lacks a token, and
        :class:`~harness.errors.DataError` for tokens that are zero or not finite.
        """
        given = outputs.normed_tokens if self._norm else outputs.tokens
        rows = []
        for block in self._blocks:
            for one, other in self._pairs:
                rows.append(_cosine(self._token(given[block], block, one), self._token(given[block], block, other)))
        found = np.stack(rows)
        if not (defined := np.isfinite(found).all(axis=0)).all():
            raise DataError(
                f"token_cosine: tokens of {self._model.name} for image {batch.ids[int(defined.argmin())]} are zero or "
                "not finite, so that they have no direction",
                hint="try --precision fp32",
            )
        return Found(values={"cosine": found.astype(np.float32)})

    def _token(self, tokens: BlockTokens, block: int, name: str) -> Tensor:
        if name == PATCH:
            return tokens.patches.float().mean(dim=1)
        if tokens.prefix.shape[1] != len(self._model.prefix):
            raise CapabilityError(
                f"model {self._model.name}: block {block} does not hold all of its prefix tokens",
                hint="choose later blocks",
            )
        return tokens.prefix[:, self._model.prefix.index(name)]

    def measure(self, outcomes: Outcomes, arrays: Arrays) -> list[Measurement]:  # noqa: ARG002  # the contract's
        """``token_cosine`` of the last block for every pair, and ``token_cosine_of_block`` for every block and pair."""
        rows = []
        for dims, values in zip(outcomes.variants, outcomes.columns["cosine"].astype(np.float64), strict=True):
            interval = stats.bootstrap_mean(values) if len(values) > 1 else None
            row = Measurement(
                metric="token_cosine_of_block",
                dims=dims,
                value=float(values.mean()),
                low=None if interval is None else interval.low,
                high=None if interval is None else interval.high,
                interval=None if interval is None else interval.method,
                n=len(values),
                unit="cosine",
                higher_is_better=None,
            )
            rows.append(row)
        last = [row for row in rows if row.dims["block"] == self._blocks[-1]]
        chief = [replace(row, metric="token_cosine", dims={"tokens": row.dims["tokens"]}) for row in last]
        return [*chief, *rows]


def _cosine(one: Tensor, other: Tensor) -> npt.NDArray[np.float64]:
    a, b = (x.detach().float().cpu().double().numpy() for x in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: npt.NDArray[np.float64] = np.divide(
        (a * b).sum(axis=1), lengths, out=np.full(len(a), np.nan), where=lengths > 0
    )
    return found
