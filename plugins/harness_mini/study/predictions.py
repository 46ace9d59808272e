"""What the papers let us expect of the zoo, written down before any perturbed image was shown to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

Direction = Literal["greater", "less"]
Compares = Literal["architectures", "checkpoints"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A finding of a paper as a difference between two numbers on the generated images.

    ``name`` is that of its measurement in :mod:`harness_mini.study.findings`. ``first`` less ``second`` is predicted
    to be ``greater`` or ``less`` than zero. ``architectures`` need three training seeds of either side, and their
    interval is over seeds; ``checkpoints`` are told apart on the same images, and their interval is over images.
    """

    name: str
    finding: str
    source: str
    quantity: str
    first: str
    second: str
    direction: Direction
    compares: Compares = "checkpoints"


_ViT, _CNN = "vit_mini", "cnn_mini"

PREDICTIONS: tuple[Prediction, ...] = (
    Prediction(
        name="random_drop",
        finding="transformers keep more of their accuracy than CNNs when random patches are blacked out",
        source="IPViT section 3.1, Fig. 3",
        quantity="mean top-1 over random PatchDrop of 10 to 90 % (14x14)",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="salient_drop",
        finding="and when the most attended patches are blacked out",
        source="IPViT section 3.1, Fig. 3",
        quantity="top-1 with the patches of half of dino_mini's attention mass dropped",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="salient_against_background",
        finding="the object's patches matter more than as many of the background",
        source="IPViT section 3.1",
        quantity="top-1 of vit_mini, the most attended patches dropped or as many of the least attended",
        first="salient dropped",
        second="background dropped",
        direction="less",
    ),
    Prediction(
        name="mask_against_background",
        finding="the same, with the exact mask in place of attention",
        source="IPViT section 3.1",
        quantity="top-1 of vit_mini, half of the object's patches dropped or as many of the background",
        first="object dropped",
        second="background dropped",
        direction="less",
    ),
    Prediction(
        name="feature_correlation",
        finding="a transformer's features change less under occlusion than a CNN's",
        source="IPViT Table 1",
        quantity="correlation of clean and half-occluded features, each image's, centred on the dataset's mean",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="shuffle",
        finding="transformers keep more of their accuracy than CNNs when patches are shuffled",
        source="IPViT section 3.3, Fig. 10",
        quantity="top-1 under shuffles of a 4x4 grid",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="shuffle_without_positions",
        finding="without position embeddings a transformer does not notice shuffles along its patches",
        source="IPViT section 3.3; protocols section 3",
        quantity="top-1 under shuffles of a 14x14 grid",
        first="vit_mini_nopos",
        second=_ViT,
        direction="greater",
    ),
    Prediction(
        name="shape_bias",
        finding="transformers decide by shape more often than CNNs",
        source="IPViT section 3.2, Fig. 6",
        quantity="shape bias on cue_conflict",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="shape_bias_stylized_vit",
        finding="training on stylized images turns a transformer to shape",
        source="IPViT Table 3",
        quantity="shape bias on cue_conflict",
        first="vit_mini_sin",
        second=_ViT,
        direction="greater",
    ),
    Prediction(
        name="shape_bias_stylized_cnn",
        finding="and a CNN",
        source="Geirhos et al., arXiv 1811.12231, Fig. 5",
        quantity="shape bias on cue_conflict",
        first="cnn_mini_sin",
        second=_CNN,
        direction="greater",
    ),
    Prediction(
        name="shape_bias_shape_token",
        finding="a shape token decides by shape more often than the class token beside it",
        source="IPViT Table 3",
        quantity="shape bias on cue_conflict of deit_mini_shape",
        first="shape head",
        second="class head",
        direction="greater",
    ),
    Prediction(
        name="token_cosine",
        finding="a shape token differs more from the class token than a distillation token does",
        source="IPViT section 3.2 (0.35 and 0.68 against 0.96 and 0.94)",
        quantity="cosine of the class and the second token, last block after the norm",
        first="deit_mini_shape",
        second="deit_mini",
        direction="less",
    ),
    Prediction(
        name="segmentation_shape_token",
        finding="a shape token's attention segments objects better than a class token's",
        source="IPViT (VOC12 Jaccard 42.2 against 32.2)",
        quantity="Jaccard index of 0.9 of the attention mass, best head",
        first="shape token of deit_mini_shape",
        second="class token of vit_mini",
        direction="greater",
    ),
    Prediction(
        name="segmentation_self_distilled",
        finding="self-distilled attention segments objects better than supervised attention",
        source="DINO (arXiv 2104.14294; VOC12 Jaccard 45.9 against 27.3)",
        quantity="Jaccard index of 0.6 of the attention mass, best head",
        first="dino_mini",
        second=_ViT,
        direction="greater",
    ),
    Prediction(
        name="segmentation_trained",
        finding="trained attention segments objects better than untrained attention",
        source="IPViT (VOC12 Jaccard 32.2 against 19.6)",
        quantity="Jaccard index of 0.9 of the attention mass, best head",
        first=_ViT,
        second="vit_mini, untrained",
        direction="greater",
    ),
    Prediction(
        name="corruption",
        finding="transformers are more robust to common corruptions than CNNs",
        source="IPViT Table 4",
        quantity="mean top-1 under gaussian_noise, impulse_noise, brightness, contrast and pixelate, severity 3",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="corruption_stylized_vit",
        finding="a transformer trained on stylized images is less robust to corruptions of natural ones",
        source="IPViT Table 4 (mCE 94.4 against 71.1)",
        quantity="mean top-1 under the same corruptions of test",
        first="vit_mini_sin",
        second=_ViT,
        direction="less",
    ),
    Prediction(
        name="attack",
        finding="transformers are more robust to gradient attacks than CNNs",
        source="IPViT section 3.4, Fig. 13",
        quantity="top-1 under PGD, l-inf 1/255, 5 steps of 0.5/255",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
    Prediction(
        name="attack_stylized_vit",
        finding="training on stylized images makes a transformer more vulnerable to attacks",
        source="IPViT section 3.4, Fig. 13",
        quantity="top-1 under the same attack, of the images that are right without it",
        first="vit_mini_sin on stylized",
        second="vit_mini on test",
        direction="less",
    ),
    Prediction(
        name="ensemble",
        finding="class tokens of the last four blocks transfer better than that of the last",
        source="IPViT section 3.6, Table 5",
        quantity="5-shot accuracy on novel shapes and textures, logistic regression",
        first="last four blocks of vit_mini",
        second="last block of vit_mini",
        direction="greater",
    ),
    Prediction(
        name="transfer",
        finding="features of transformers transfer better than those of CNNs",
        source="IPViT section 3.6, Fig. 16",
        quantity="5-shot accuracy on novel shapes and textures, logistic regression",
        first=_ViT,
        second=_CNN,
        direction="greater",
        compares="architectures",
    ),
)


def digest() -> str:
    """SHA-256 (hex) of every prediction."""
    content = json.dumps([dataclasses.asdict(prediction) for prediction in PREDICTIONS], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
