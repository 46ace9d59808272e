"""What solving episodes in batches saves over one scikit-learn classifier after another.

``python tests/benchmarks/bench_episodes.py`` fits and asks 600 five-way one-shot episodes with 15 queries per class on
384-d features of 20 generated classes: by each head of the ``episodes`` probe, and by a loop that does for each episode
what RFS does (Tian et al., ECCV 2020): features of length 1, ``LogisticRegression(C=1, max_iter=1000)``, ``predict``
and ``accuracy_score``. Both are given the same episodes. All take turns on one thread, so that a slow spell of the
machine meets every one of them; medians are shown, and their ratio to the loop. The whole probe, draws and counting
included, is shown beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from threadpoolctl import threadpool_limits

from harness.protocols import ProbeContext, ProbeRun
from harness.types import (
    Capability,
    FeatureSpec,
    FeatureTable,
    ImageBatch,
    ModelInfo,
    ModelOutputs,
    View,
    WeightsInfo,
)
from harness_probes.episode_heads import fit_all, make_head
from harness_probes.episode_run import FittedEpisodes
from harness_probes.episodes_probe import EpisodesProbe

CLASSES, DIMENSION, WAYS, SHOTS, QUERIES = 20, 384, 5, 1, 15
HEADS: dict[str, tuple[dict[str, Any], float]] = {
    "ridge": ({"head": "ridge"}, 50.0),
    "centroid euclidean": ({"head": "centroid"}, 50.0),
    "centroid cosine": ({"head": "centroid", "metric": "cosine"}, 50.0),
    "logistic": ({"head": "logistic"}, 5.0),
}
ACCURACY_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Features (N, D) float32 and labels (N,)."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]


def generated_splits(images_per_class: int) -> tuple[Split, Split]:
    """Support and query images: a class mean, an offset that all share, and noise of the same size as the offset."""
    generator = np.random.default_rng(0)
    means, offset = 0.3 * generator.normal(size=(CLASSES, DIMENSION)), generator.normal(size=DIMENSION)

    def split() -> Split:
        y = generator.permutation(np.repeat(np.arange(CLASSES), images_per_class))
        return Split(x=(offset + means[y] + generator.normal(size=(len(y), DIMENSION))).astype(np.float32), y=y)

    return split(), split()


def model_card() -> ModelInfo:
    """A model that gives such features."""
    return ModelInfo(
        name="generated",
        family="bench",
        weights=WeightsInfo(origin="random", identity="random:generated:0"),
        view=View(crop=8),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        label_space=None,
        num_classes=None,
        num_blocks=12,
        embed_dim=DIMENSION,
        pooled_dim=DIMENSION,
        heads=(),
        capabilities=frozenset({Capability.POOLED}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The probe's inputs, and the two ways to solve its episodes."""

    episodes: int
    support: Split
    query: Split

    @property
    def context(self) -> ProbeContext:
        """Every query image may be asked about."""
        return ProbeContext(
            model=model_card(),
            classes=[f"class {c}" for c in range(CLASSES)],
            label_space=None,
            seed=0,
            query_positions=np.arange(len(self.query.y)),
            query_labels=self.query.y,
        )

    def batch(self) -> tuple[ImageBatch, ModelOutputs]:
        """All query images at once."""
        n = len(self.query.y)
        images = ImageBatch(
            images=torch.zeros(n, 3, 1, 1),
            labels=torch.from_numpy(self.query.y),
            ids=tuple(str(i) for i in range(n)),
            positions=np.arange(n),
        )
        return images, ModelOutputs(pooled=torch.from_numpy(self.query.x))

    def fitted(self, params: dict[str, Any]) -> tuple[FittedEpisodes, FeatureTable]:
        """The probe, from the draw of its support images to the fit."""
        probe = EpisodesProbe(ways=WAYS, shots=SHOTS, queries=QUERIES, episodes=self.episodes, **params)
        chosen = probe.select_support(self.support.y, 0)
        ids = [str(i) for i in chosen]
        spec = FeatureSpec(pooled=True)
        table = FeatureTable(x=self.support.x[chosen], y=self.support.y[chosen], ids=ids, spec=spec)
        fitted = probe.fit(table, self.context)
        assert isinstance(fitted, FittedEpisodes)
        return fitted, table

    def whole(self, params: dict[str, Any]) -> ProbeRun:
        """Draw, fit, ask and count."""
        run = self.fitted(params)[0].start()
        run.update(*self.batch(), None)
        return run

    def solving(self, params: dict[str, Any]) -> Callable[[], object]:
        """A call that fits the classifiers of episodes already drawn, and answers all their questions."""
        fitted, table = self.fitted(params)
        head, unit = make_head(params["head"], metric=params.get("metric", "euclidean"), ridge_lambda=1.0)
        images, outputs = self.batch()

        def action() -> object:
            weights = fit_all(table.x, fitted.episodes, head, unit=unit)
            row, episode, predicted = FittedEpisodes(
                model=model_card(),
                spec=table.spec,
                episodes=fitted.episodes,
                weights=weights,
                positions=images.positions,
                dims={},
            ).answer(images, outputs)
            return np.bincount(episode, predicted == self.query.y[row]) / np.bincount(episode)

        return action

    def looping(self) -> Callable[[], float]:
        """A call that solves the same episodes one by one; its value is the mean accuracy."""
        fitted, table = self.fitted({"head": "logistic"})
        episodes = fitted.episodes
        by_episode = np.argsort(episodes.asked_episode, kind="stable")
        queries = episodes.asked_row[by_episode].reshape(self.episodes, -1)
        supports = episodes.rows.reshape(self.episodes, -1)

        def unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            return x / np.linalg.norm(x, axis=1, keepdims=True)

        def action() -> float:
            accuracies = []
            for support, query in zip(supports, queries, strict=True):
                classifier = LogisticRegression(C=1.0, max_iter=1000).fit(unit(table.x[support]), table.y[support])
                predicted = classifier.predict(unit(self.query.x[query]))
                accuracies.append(accuracy_score(self.query.y[query], predicted))
            return float(np.mean(accuracies))

        return action


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def medians(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each action, all taking turns after one round to warm up."""
    for action in actions.values():
        action()
    rounds = [{name: seconds(action) for name, action in actions.items()} for _ in range(repeats)]
    return {name: statistics.median(row[name] for row in rounds) for name in actions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--images-per-class", type=int, default=300, help="of each split")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    support, query = generated_splits(given.images_per_class)
    trial = Trial(episodes=given.episodes, support=support, query=query)
    torch.set_num_threads(1)
    with threadpool_limits(1), torch.inference_mode():
        loop = trial.looping()
        actions: dict[str, Callable[[], object]] = {"loop": loop}
        for name, (params, _) in HEADS.items():
            actions[name] = trial.solving(params)
            actions[f"{name}, whole"] = lambda params=params: trial.whole(params).result()  # type: ignore[misc]  # bound now
        found = medians(actions, given.repeats)
        accuracies = {name: trial.whole(params).result()[0].value for name, (params, _) in HEADS.items()}
        expected = loop()
    print(
        f"{given.episodes} episodes, {WAYS}-way {SHOTS}-shot, {QUERIES} queries per class, {DIMENSION} features, "
        f"{len(query.y)} query images; one thread, median of {given.repeats}\n"
    )
    print(
        f"{'':<30}{'accuracy':>9}{'fit and ask':>14}{'loop / it':>11}{'needed':>8}{'whole probe':>14}{'loop / it':>11}"
    )
    print(f"{'loop of scikit-learn logistic':<30}{expected:>9.4f}{1000 * found['loop']:>11.0f} ms")
    short = []
    for name, (_, needed) in HEADS.items():
        ratio, whole = found["loop"] / found[name], found[f"{name}, whole"]
        short += [name] if ratio < needed else []
        print(
            f"{name:<30}{accuracies[name]:>9.4f}{1000 * found[name]:>11.1f} ms{ratio:>11.1f}{needed:>8.0f}"
            f"{1000 * whole:>11.1f} ms{found['loop'] / whole:>11.1f}"
        )
    apart = abs(accuracies["logistic"] - expected)
    print(f"\ntoo slow: {', '.join(short) or 'none'}; logistic head and loop differ by {apart:.4f} in accuracy")
    return 0 if not short and apart <= ACCURACY_TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
