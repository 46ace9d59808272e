"""Named maps from the classes that a model's head scores to the classes that images are labelled with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET = "imagenet1k"
"""ImageNet-1k's 1000 classes, numbered in the sorted order of their WordNet ids (wnids)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """How scores over the classes of ``source`` become scores over those of ``target``.

    ``groups``: for each class of ``target``, in order, the indices of ``source`` that stand for it; None for the
    identity, whose spaces are one. ``source_classes``: how many classes ``source`` has, None for the identity.
    ``classes``: names of ``target``'s classes in order, empty where the map does not know them.
    """

    name: str
    source: str
    target: str
    source_classes: int | None = None
    groups: tuple[tuple[int, ...], ...] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.groups is None) != (self.source_classes is None):
            raise ParameterError(f"label map {self.name}: groups and source_classes come together or not at all")
        members = [index for group in self.groups or () for index in group]
        if self.groups is not None and (
            not all(self.groups)
            or len(set(members)) != len(members)
            or not all(0 <= index < (self.source_classes or 0) for index in members)
        ):
            raise ParameterError(
                f"label map {self.name}: its groups must not be empty, share no index and lie in "
                f"[0, {self.source_classes})"
            )
        if self.classes and len(self.classes) != len(self.groups or ()):
            raise ParameterError(
                f"label map {self.name}: {len(self.classes)} names for {len(self.groups or ())} groups"
            )

    @property
    def is_identity(self) -> bool:
        """Whether scores stay as they are."""
        return self.groups is None

    def num_classes(self, source_classes: int | None) -> int | None:
        """How many classes the mapped scores have, for a head of ``source_classes``."""
        return source_classes if self.groups is None else len(self.groups)

    def apply(self, logits: Tensor) -> Tensor:
        """Scores (N, C') for ``logits`` (N, C), differentiable; their softmax gives the probabilities of ``target``.

        A map of single indices picks their logits, so that the softmax runs over the subset alone (Hendrycks et al.,
        "Natural Adversarial Examples", 2021). A map of groups gives the logarithm of the *mean* probability of each
        group's members under the softmax over all C classes, in float32 or better (Geirhos et al., "ImageNet-trained
        CNNs are biased towards texture", 2019; the mean is their recommendation, since groups differ in size).
        Raises :class:`~harness.errors.ParameterError` for another number of classes than ``source`` has.
        """
        if self.groups is None:
            return logits
        import torch

        if logits.shape[1] != self.source_classes:
            raise ParameterError(
                f"label map {self.name}: expected scores of the {self.source_classes} classes of {self.source}, "
                f"found {logits.shape[1]}",
                hint="the model's card names another label space than its head has",
            )
        sizes = [len(group) for group in self.groups]
        members = torch.tensor([index for group in self.groups for index in group], device=logits.device)
        if max(sizes) == 1:
            return logits.index_select(1, members)
        # Half precision would round away the small probabilities that a mean over many members is made of.
        exact = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        parts = torch.split_with_sizes(exact.log_softmax(dim=1).index_select(1, members), sizes, dim=1)
        return torch.stack([part.logsumexp(dim=1) - math.log(part.shape[1]) for part in parts], dim=1)


def find_label_map(model_space: str | None, dataset_space: str | None) -> LabelMap | None:
    """The map from the classes of a model's head to those of a dataset: the identity where they are the same.

    None where there is no map, and for spaces without a name, which match nothing.

    >>> find_label_map("imagenet1k", "imagenet16").classes[:3]
    ('airplane', 'bear', 'bicycle')
    >>> find_label_map("imagenet1k", "digits") is None
    True
    """
    if model_space is None or dataset_space is None:
        return None
    if model_space == dataset_space:
        return LabelMap(name="identity", source=model_space, target=dataset_space)
    return _MAPS.get((model_space, dataset_space))


def mapped_from(model_space: str | None) -> tuple[str, ...]:
    """The other label spaces that a head of ``model_space`` can be read in, sorted."""
    return tuple(sorted(target for source, target in _MAPS if source == model_space))


def _indices(text: str) -> tuple[int, ...]:
    """Indices written as numbers and ranges: ``8 10-12`` for 8, 10, 11, 12."""
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


_IMAGENET_A = """
6 11 13 15 17 22-23 27 30 37 39 42 47 50 57 70-71 76 79 89-90 94 96-97 99 105 107-108 110 113 124-125 130 132 143-144
150-151 207 234-235 254 277 283 287 291 295 298 301 306-311 313-315 317 319 323-324 326-327 330 334-336 347 361 363 372
378 386 397 400-402 404 407 411 416-417 420 425 428 430 437-438 445 456-457 461-462 470 472 483 486 488 492 496 514 516
528 530 539 542-543 549 552 557 561-562 569 572-573 575 579 589 606-607 609 614 626-627 640-643 658 668 677 682 684 687
701 704 719 736 746 749 752 758 763 765 768 773-774 776 779-780 786 792 797 802-804 813 815 820 823 831 833 835 839 845
847 850 859 862 870 879-880 888 890 897 900 907 913 924 932-934 937 943 945 947 951 954 956-957 959 971-972 980-981 984
986-988
"""
_IMAGENET_R = """
1-2 4 6 8-9 11 13 22-23 26 29 31 39 47 63 71 76 79 84 90 94 96-97 99-100 105 107 113 122 125 130 132 144-145 147-148
150-151 155 160-163 171-172 178 187 195 199 203 207-208 219 231-232 234-235 242 245 247 250-251 254 259-260 263 265 267
269 276-277 281 288-289 291-293 296 299 301 308-311 314-315 319 323 327 330 334-335 337-338 340-341 344 347 353 355
361-362 365-368 372 388 390 393 397 401 407 413-414 425 428 430 435 437 441 447-448 457 462-463 469-472 476 483 487 515
546 555 558 570 579 583 587 593-594 596 609 613 617 621 629 637 657-658 701 717 724 763 768 774 776 779-780 787 805 812
815 820 824 833 847 852 866 875 883 889 895 907 928 931-934 936-937 943 945 947-949 951 953-954 957 963 965 967 980-981
983 988
"""
_IMAGENET_16 = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}


def _from_imagenet(target: str, groups: tuple[tuple[int, ...], ...], classes: tuple[str, ...] = ()) -> LabelMap:
    return LabelMap(
        name=f"{IMAGENET}_to_{target}",
        source=IMAGENET,
        target=target,
        source_classes=1000,
        groups=groups,
        classes=classes,
    )


_MAPS = {
    (found.source, found.target): found
    for found in (
        # Hendrycks et al., "Natural Adversarial Examples" (ImageNet-A) and "The Many Faces of Robustness" (ImageNet-R),
        # both 2021: 200 classes each, numbered in the sorted order of their wnids.
        _from_imagenet("imagenet_a", tuple((index,) for index in _indices(_IMAGENET_A))),
        _from_imagenet("imagenet_r", tuple((index,) for index in _indices(_IMAGENET_R))),
        # Geirhos et al., "Generalisation in humans and deep neural networks", 2018: 16 categories of everyday objects.
        _from_imagenet("imagenet16", tuple(map(_indices, _IMAGENET_16.values())), tuple(_IMAGENET_16)),
    )
}
