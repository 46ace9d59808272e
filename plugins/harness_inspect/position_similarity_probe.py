"""How alike the embeddings of a model's positions are, and what of that follows from where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.errors import CapabilityError, DataError
from harness.protocols import FittedProbe, ProbeContext, ProbeInfo, SiteTokens, SupportsIntervention
from harness.types import Capability, FeatureTable, Measurement, ModelInfo, OutputSpec
from harness_inspect.answers import first_block
from harness_inspect.model_inspection import ModelFindings, measured_model
from harness_inspect.model_probe import ModelProbe

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.protocols import Model

SIMILARITY = "similarity"
"""(G, G) float32: cosine of the embeddings of two patch positions, both in row-major order."""
GRID = "grid"
"""(2,) int64: rows and columns of the patches."""

_SITE = "pos_embed"
_DECIMALS = 9
"""Cosines that differ by less are equal: what rounding makes of one embedding is no order."""


class PositionSimilarityProbe(ModelProbe):
    """Cosine similarity of each patch position's embedding to all others; those of prefix tokens are left out.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929), section 4.5 and figure 7 centre.
    The embeddings are those that the model adds to the patches of a black image of its own size, resized to its grid
    where they had to be; learned ones and sinusoids alike.

    Measured over the G positions, without intervals, since nothing is drawn at random. Distances are between the
    places of two patches on the grid, in patches:

    - ``position_locality``: Spearman's correlation of similarity with nearness (minus the distance) over all other
      positions, mean over the positions; 1 where a nearer patch is always more similar, 0 where place tells nothing.
    - ``neighbour_similarity``: mean over the pairs that share an edge; ``pair_similarity``: over all pairs.
    - ``row_structure``: mean over the pairs in one row, less that over the pairs that share neither row nor column;
      ``column_structure`` likewise.
    - ``embedding_norm``: mean length of the embeddings; ``norm_variation``: their standard deviation over that mean.
    """

    def __init__(self) -> None:
        super().__init__(ProbeInfo(name="position_similarity", of_model=True, headline="position_locality"))

    def wants(self, model: ModelInfo) -> OutputSpec:
        """Nothing: no image is shown.

        Raises :class:`~harness.errors.CapabilityError` for a model into which nobody can look; whether there are
        position embeddings only the network itself can tell.
        """
        if Capability.INTERVENTION not in model.capabilities:
            raise CapabilityError(
                f"model {model.name} does not show what it adds to its patches",
                hint="take a model that supports interventions, such as a ViT or a DeiT",
            )
        return OutputSpec()

    def fit(self, support: FeatureTable | None, context: ProbeContext) -> FittedProbe:  # noqa: ARG002  # there is none
        """Measure the model's position embeddings.

        Raises :class:`~harness.errors.CapabilityError` for a model that adds none to its patches or has no grid of at
        least two by two, and :class:`~harness.errors.DataError` for embeddings that are zero, not finite or all alike.
        """
        model = measured_model(context, "position_similarity")
        embeddings, grid = position_embeddings(model, context.device)
        similarity = cosines(embeddings, model.info.name)
        lengths = np.linalg.norm(embeddings, axis=1)
        found = {
            "position_locality": locality(similarity, grid, model.info.name),
            **structure(similarity, grid),
            "embedding_norm": float(lengths.mean()),
            "norm_variation": float(lengths.std() / lengths.mean()),
        }
        return ModelFindings(
            [
                Measurement(
                    metric=metric,
                    value=value,
                    n=len(embeddings),
                    unit="",
                    counted="positions",
                    higher_is_better=None,
                )
                for metric, value in found.items()
            ],
            {SIMILARITY: similarity.astype(np.float32), GRID: np.array(grid, np.int64)},
        )


def position_embeddings(
    model: Model, device: torch.device | None = None
) -> tuple[npt.NDArray[np.float64], tuple[int, int]]:
    """The embeddings (G, D) that ``model`` adds to its patches, and the grid of these; ``device`` is where it runs.

    Raises :class:`~harness.errors.CapabilityError` for a model that adds none, or has no grid of two by two at least.
    """
    seen: list[SiteTokens] = []

    def look(tokens: SiteTokens) -> SiteTokens:
        seen.append(tokens)
        return tokens

    info, ids = model.info, ("black",)
    black = torch.zeros(1, 3, info.input_size, info.input_size, device=device)
    if isinstance(model, SupportsIntervention):
        try:
            with torch.no_grad(), model.intervene(_SITE, look, ids=ids):
                model.outputs(black, first_block(info))
        except CapabilityError as error:
            raise CapabilityError(
                f"model {info.name} adds no absolute position embeddings to its patches: {error.message}",
                hint="take a model with position embeddings, such as a ViT or a DeiT",
            ) from error
    if not seen:
        raise CapabilityError(
            f"model {info.name} shows no position embeddings in a forward pass",
            hint="take a model with position embeddings, such as a ViT or a DeiT",
        )
    tokens = seen[0]
    if min(tokens.grid) < 2:
        raise CapabilityError(
            f"model {info.name} has a grid of {tokens.grid[0]} x {tokens.grid[1]} patches, which has no two dimensions",
            hint="give it a larger input",
        )
    return tokens.patches[0].detach().to("cpu", torch.float64).numpy(), tokens.grid


def cosines(embeddings: npt.NDArray[np.float64], model: str) -> npt.NDArray[np.float64]:
    """Cosines (G, G) of embeddings (G, D), with ones on the diagonal.

    Raises :class:`~harness.errors.DataError` for embeddings that are zero or not finite.
    """
    if not np.isfinite(embeddings).all():
        raise DataError(f"model {model}: its position embeddings hold values that are not finite")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if zero := int((lengths == 0).sum()):
        raise DataError(
            f"model {model}: {zero} of {len(embeddings)} position embeddings are zero, so that they have no direction",
            hint="measure the model with the positions that it was trained with",
        )
    units = embeddings / lengths
    found: npt.NDArray[np.float64] = np.clip(units @ units.T, -1, 1)
    np.fill_diagonal(found, 1)
    return found


def distances(grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Euclidean distances (G, G) in patches between the places of a grid, in row-major order."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    found: npt.NDArray[np.float64] = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return found


def locality(similarity: npt.NDArray[np.float64], grid: tuple[int, int], model: str) -> float:
    """Mean over the positions of Spearman's correlation between similarity and nearness over all other positions.

    Raises :class:`~harness.errors.DataError` where a position is equally similar to all others.
    """
    from scipy.stats import rankdata

    count = len(similarity)
    others = ~np.eye(count, dtype=bool)
    alike = similarity[others].reshape(count, count - 1).round(_DECIMALS)
    near = -distances(grid)[others].reshape(count, count - 1).round(_DECIMALS)
    if uniform := int((np.ptp(alike, axis=1) == 0).sum()):
        raise DataError(
            f"model {model}: the embeddings of {uniform} of {count} positions are equally similar to all others, so "
            "that place tells nothing",
            hint="measure the model with the positions that it was trained with",
        )
    ranks = [rankdata(values, axis=1) for values in (alike, near)]
    first, second = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    products = (first * second).sum(axis=1)
    return float((products / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))).mean())


def structure(similarity: npt.NDArray[np.float64], grid: tuple[int, int]) -> dict[str, float]:
    """What the pairs of neighbours, of all positions, and of one row or column have in common; see the probe."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    same_row, same_column = rows[:, None] == rows, columns[:, None] == columns
    apart = float(similarity[~same_row & ~same_column].mean())
    pairs = ~(same_row & same_column)
    return {
        "neighbour_similarity": float(similarity[distances(grid) == 1].mean()),
        "pair_similarity": float(similarity[pairs].mean()),
        "row_structure": float(similarity[same_row & ~same_column].mean()) - apart,
        "column_structure": float(similarity[same_column & ~same_row].mean()) - apart,
    }
