"""The recipes of the zoo: what each network is trained on, by which objective, for how long."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import ParameterError
from harness.naming import did_you_mean
from harness.types import JSONValue

Objective = Literal["labels", "soft_distillation", "self_distillation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one network of the zoo is trained.

    ``split`` of the dataset ``shapes`` is walked from its start, each image once. The first ``window_images`` show a
    window of ``window_cells`` x ``window_cells`` patches about the object, which is cheap and teaches textures and
    parts early; the other ``whole_images`` are whole. Nothing else is changed: no flips, no colour jitter, no erasing.
    (``self_distillation`` sees windows of its own in other colours all along, as its method asks.)
    Learning rates rise over ``warm_up`` of the steps and fall to zero along a cosine; ``matrix_learning_rate`` is that
    of the matrices inside a transformer's blocks (None: they learn like the rest). ``teacher`` is the model of the zoo
    that the second token learns from, at ``temperature``.
    """

    split: Literal["train", "stylized_train"] = "train"
    objective: Objective = "labels"
    teacher: str | None = None
    temperature: float = 3.0
    window_cells: int = 7
    window_images: int = 36_000
    whole_images: int = 36_000
    batch_size: int = 48
    learning_rate: float = 2e-3
    matrix_learning_rate: float | None = 4e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    gradient_norm: float = 1.0
    seed: int = 0

    @property
    def steps(self) -> tuple[int, int]:
        """Steps on windows, and on whole images."""
        return self.window_images // self.batch_size, self.whole_images // self.batch_size

    def as_dict(self) -> dict[str, JSONValue]:
        """Plain values for a card."""
        return dataclasses.asdict(self)


def recipe_of(name: str) -> Recipe:
    """The recipe of a model. Raises :class:`~harness.errors.ParameterError` for a name that has none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise ParameterError(
            f"no recipe named {name!r}",
            hint=did_you_mean(name, RECIPES) or f"there are {', '.join(RECIPES)}",
        ) from None


def digest(recipe: Recipe) -> str:
    """SHA-256 (hex) of a recipe's values."""
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()


_TRANSFORMER = Recipe()
_CONVOLUTIONAL = Recipe(learning_rate=4e-3, matrix_learning_rate=None)


def _stylized(recipe: Recipe) -> Recipe:
    """Shapes show in large windows only, and take longer to learn."""
    return dataclasses.replace(
        recipe, split="stylized_train", window_cells=10, window_images=48_000, whole_images=48_000
    )


RECIPES: Mapping[str, Recipe] = {
    "vit_mini": _TRANSFORMER,
    "vit_mini_nopos": _TRANSFORMER,
    "vit_mini_sin": _stylized(_TRANSFORMER),
    "deit_mini": dataclasses.replace(_TRANSFORMER, objective="soft_distillation", teacher="cnn_mini"),
    "deit_mini_shape": dataclasses.replace(_TRANSFORMER, objective="soft_distillation", teacher="cnn_mini_sin"),
    "dino_mini": dataclasses.replace(
        _TRANSFORMER, objective="self_distillation", window_images=0, matrix_learning_rate=2e-3
    ),
    "cnn_mini": _CONVOLUTIONAL,
    "cnn_mini_sin": _stylized(_CONVOLUTIONAL),
    "patchconv_mini": _CONVOLUTIONAL,
    "patchconv_mini_multi": _CONVOLUTIONAL,
}
"""Networks that are compared share everything but the architecture; deviations stand here and nowhere else."""
