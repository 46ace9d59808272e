"""One measurement for each prediction, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch

from harness import rng
from harness.protocols import Model
from harness.types import ImageBatch
from harness_mini.networks import CELLS
from harness_mini.shapes_dataset import NovelShapes
from harness_mini.study import measures
from harness_mini.study.laboratory import Study
from harness_mini.study.measures import Change, Images, Values
from harness_mini.study.predictions import Prediction
from harness_mini.study.verdicts import Finding, of_architectures, of_biases, of_checkpoints, of_unpaired


def _random_drop(study: Study, prediction: Prediction) -> Finding:
    def measure(model: Model) -> Values:
        return _mean_over([measures.correct(model, study.test, change) for change in study.drops.values()])

    return of_architectures(prediction, study.per_seed(measure, prediction))


def _mean_over(conditions: Sequence[Values]) -> Values:
    """The mean of several conditions for each image, (N,)."""
    return cast("Values", np.stack(conditions).mean(axis=0))


def _salient_change(study: Study) -> Change:
    return lambda batch: measures.cells_blackened(measures.most(study.saliency(batch), 0.5), batch.images)


def _background_change(study: Study) -> Change:
    def change(batch: ImageBatch) -> torch.Tensor:
        saliency = study.saliency(batch)
        counts = measures.most(saliency, 0.5).sum(dim=1)
        return measures.cells_blackened(measures.fewest(saliency, counts), batch.images)

    return change


def _salient_drop(study: Study, prediction: Prediction) -> Finding:
    change = _salient_change(study)
    return of_architectures(
        prediction, study.per_seed(lambda model: measures.correct(model, study.test, change), prediction)
    )


def _salient_against_background(study: Study, prediction: Prediction) -> Finding:
    model = study.model("vit_mini")
    sides = [measures.correct(model, study.test, change(study)) for change in (_salient_change, _background_change)]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _mask_against_background(study: Study, prediction: Prediction) -> Finding:
    def covered(batch: ImageBatch) -> torch.Tensor:
        assert batch.masks is not None
        side = CELLS
        return (
            batch.masks.view(len(batch), side, -1, side, batch.masks.shape[2] // side)
            .float()
            .mean(dim=(2, 4))
            .flatten(1)
        )

    def dropping(background: bool) -> Change:
        def change(batch: ImageBatch) -> torch.Tensor:
            share = covered(batch)
            counts = torch.minimum((share > 0.5).sum(dim=1), (share == 0).sum(dim=1)) // 2
            draws = torch.from_numpy(rng.uniforms(0, "mini.mask_drop", batch.ids, share.shape[1]))
            wanted = share == 0 if background else share > 0.5
            order = torch.where(wanted, draws, draws + 1)
            return measures.cells_blackened(measures.fewest(order, counts), batch.images)

        return change

    model = study.model("vit_mini")
    sides = [measures.correct(model, study.test, dropping(background)) for background in (False, True)]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _feature_correlation(study: Study, prediction: Prediction) -> Finding:
    def measure(model: Model) -> Values:
        clean, occluded = (measures.pooled(model, study.test, change) for change in (None, study.drops[0.5]))
        return measures.centred_correlation(clean, occluded)

    return of_architectures(prediction, study.per_seed(measure, prediction))


def _shuffle(study: Study, prediction: Prediction) -> Finding:
    change = measures.shuffled(4)
    return of_architectures(
        prediction, study.per_seed(lambda model: measures.correct(model, study.test, change), prediction)
    )


def _shuffle_without_positions(study: Study, prediction: Prediction) -> Finding:
    change = measures.shuffled(14)
    sides = [measures.correct(study.model(name), study.test, change) for name in (prediction.first, prediction.second)]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _shape_bias(study: Study, prediction: Prediction) -> Finding:
    first, second = (
        [study.bias(name, seed).value for seed in study.seeds(name)] for name in (prediction.first, prediction.second)
    )
    return of_architectures(prediction, (first, second))


def _shape_bias_of_two(study: Study, prediction: Prediction) -> Finding:
    return of_biases(prediction, study.bias(prediction.first), study.bias(prediction.second))


def _shape_bias_of_token(study: Study, prediction: Prediction) -> Finding:
    heads = [study.bias("deit_mini_shape", head=head) for head in ("shape", "cls")]
    return of_biases(prediction, heads[0], heads[1])


def _token_cosine(study: Study, prediction: Prediction) -> Finding:
    sides = [measures.token_cosine(study.model(name), study.test) for name in (prediction.first, prediction.second)]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _segmentation_shape_token(study: Study, prediction: Prediction) -> Finding:
    first = measures.jaccard(study.model("deit_mini_shape"), study.test, mass=0.9, token="shape")  # noqa: S106  # a token, no password
    return of_checkpoints(prediction, (first, measures.jaccard(study.model("vit_mini"), study.test, mass=0.9)))


def _segmentation_self_distilled(study: Study, prediction: Prediction) -> Finding:
    sides = [
        measures.jaccard(study.model(name), study.test, mass=0.6) for name in (prediction.first, prediction.second)
    ]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _segmentation_trained(study: Study, prediction: Prediction) -> Finding:
    models = (study.model("vit_mini"), study.model("vit_mini", untrained=True))
    sides = [measures.jaccard(model, study.test, mass=0.9) for model in models]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _robustness(study: Study, model: Model) -> Values:
    changes = [measures.corrupted(name) for name in measures.CORRUPTIONS]
    return _mean_over([measures.correct(model, study.test, change) for change in changes])


def _corruption(study: Study, prediction: Prediction) -> Finding:
    return of_architectures(prediction, study.per_seed(lambda model: _robustness(study, model), prediction))


def _corruption_of_two(study: Study, prediction: Prediction) -> Finding:
    sides = [_robustness(study, study.model(name)) for name in (prediction.first, prediction.second)]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _attacked(model: Model, images: Images) -> Values:
    return measures.correct(model, images, measures.attacked(model, eps=1 / 255, step=0.5 / 255, steps=5))


def _attack(study: Study, prediction: Prediction) -> Finding:
    return of_architectures(prediction, study.per_seed(lambda model: _attacked(model, study.test), prediction))


def _attack_stylized(study: Study, prediction: Prediction) -> Finding:
    """Each model on the images of its own training, of which it gets unequally many right; so no pairs."""
    sides = []
    for name, images in (("vit_mini_sin", study.stylized), ("vit_mini", study.test)):
        clean = measures.correct(study.model(name), images)
        sides.append(_attacked(study.model(name), images)[clean == 1])
    return of_unpaired(prediction, sides[0], sides[1])


def _few_shot(features: Callable[[Images], Values]) -> Values:
    novel = NovelShapes()
    support = Images(dataset=novel, split=novel.info.support_split or "", count=1000)
    query = Images(dataset=novel, split=novel.info.query_split, count=1000)
    return measures.few_shot(
        features(support), measures.labels(support), features(query), measures.labels(query), shots=5, draws=10
    )


def _ensemble(study: Study, prediction: Prediction) -> Finding:
    model = study.model("vit_mini")
    blocks = (
        model.info.num_blocks - 4,
        model.info.num_blocks - 3,
        model.info.num_blocks - 2,
        model.info.num_blocks - 1,
    )
    sides = [
        _few_shot(lambda images, chosen=chosen: measures.class_tokens(model, images, chosen))  # type: ignore[misc]  # a default binds `chosen`; mypy infers no type for it
        for chosen in (blocks, blocks[-1:])
    ]
    return of_checkpoints(prediction, (sides[0], sides[1]))


def _transfer(study: Study, prediction: Prediction) -> Finding:
    def measure(model: Model) -> Values:
        return _few_shot(lambda images: measures.pooled(model, images))

    return of_architectures(prediction, study.per_seed(measure, prediction))


MEASUREMENTS: Mapping[str, Callable[[Study, Prediction], Finding]] = {
    "random_drop": _random_drop,
    "salient_drop": _salient_drop,
    "salient_against_background": _salient_against_background,
    "mask_against_background": _mask_against_background,
    "feature_correlation": _feature_correlation,
    "shuffle": _shuffle,
    "shuffle_without_positions": _shuffle_without_positions,
    "shape_bias": _shape_bias,
    "shape_bias_stylized_vit": _shape_bias_of_two,
    "shape_bias_stylized_cnn": _shape_bias_of_two,
    "shape_bias_shape_token": _shape_bias_of_token,
    "token_cosine": _token_cosine,
    "segmentation_shape_token": _segmentation_shape_token,
    "segmentation_self_distilled": _segmentation_self_distilled,
    "segmentation_trained": _segmentation_trained,
    "corruption": _corruption,
    "corruption_stylized_vit": _corruption_of_two,
    "attack": _attack,
    "attack_stylized_vit": _attack_stylized,
    "ensemble": _ensemble,
    "transfer": _transfer,
}
