"""Episodes drawn from two splits: exact counts, uniform draws, Meta-Dataset's constants, and what fit finds missing."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness_probes.episode_compositions import FixedSampler, MetaDatasetSampler, class_order
from harness_probes.episode_sampling import ask, draw_subsets, draw_supports

FIXED = FixedSampler(ways=5, shots=2, asked=3)


def labels_of(sizes, seed=0):
    """Labels of a split with that many images of each class, in random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def episodes_of(sampler, support, query, *, episodes=50, seed=0):
    """Drawn and asked, as one list of dicts from label to support positions, and to query rows."""
    drawn = draw_supports(support, sampler, episodes=episodes, seed=seed)
    found = ask(drawn, support[drawn.positions], query, sampler, seed=seed)
    listed = []
    for e in range(len(found)):
        mine = range(found.first[e], found.first[e + 1])
        asked = found.asked_row[found.asked_episode == e]
        listed.append(
            {
                int(found.labels[t]): (
                    drawn.positions[found.rows[found.offsets[t] : found.offsets[t + 1]]],
                    asked[query[asked] == found.labels[t]],
                )
                for t in mine
            }
        )
        assert len(listed[-1]) == len(mine)
        assert len(asked) == sum(len(rows) for _, rows in listed[-1].values())
    return listed


@settings(max_examples=25, deadline=None)
@given(
    ways=st.integers(2, 6),
    shots=st.integers(1, 4),
    queries=st.integers(1, 5),
    extra=st.lists(st.integers(0, 4), min_size=6, max_size=9),
    seed=st.integers(-3, 3),
)
def test_fixed_episodes_hold_exactly_the_ways_shots_and_queries_asked_for(ways, shots, queries, extra, seed):
    support = labels_of([shots + more for more in extra], 1)
    query = labels_of([queries + more for more in extra], 2)
    sampler = FixedSampler(ways=ways, shots=shots, asked=queries)
    for episode in episodes_of(sampler, support, query, episodes=7, seed=seed):
        assert len(episode) == ways
        for label, (images, rows) in episode.items():
            assert (len(set(images.tolist())), len(set(rows.tolist()))) == (shots, queries)
            assert (support[images] == label).all()
            assert (query[rows] == label).all()


def test_every_set_of_classes_and_every_image_is_equally_likely():
    support, query = labels_of([4] * 5, 1), labels_of([6] * 5, 2)
    sampler = FixedSampler(ways=3, shots=2, asked=3)
    listed = episodes_of(sampler, support, query, episodes=4000)
    sets = Counter(tuple(sorted(episode)) for episode in listed)
    assert set(sets) == set(combinations(range(5), 3))
    # Binomial deviations: sqrt(4000 * 0.1 * 0.9) = 19 for sets, about 35 for the images of a class.
    assert max(abs(count - 400) for count in sets.values()) < 5 * 19
    images = np.bincount(np.concatenate([i for episode in listed for i, _ in episode.values()]), minlength=20)
    rows = np.bincount(np.concatenate([r for episode in listed for _, r in episode.values()]), minlength=30)
    assert np.abs(images - 1200).max() < 5 * 35
    assert np.abs(rows - 1200).max() < 5 * 35


def test_subsets_are_uniform_over_all_subsets():
    n, k, repeats = 5, 3, 6000
    uniform = np.random.default_rng(0).random(repeats * k)
    found = draw_subsets(np.full(repeats, n), np.full(repeats, k), uniform).reshape(-1, k)
    counts = Counter(map(tuple, found.tolist()))
    assert set(counts) == set(combinations(range(n), k))
    assert max(abs(count - 600) for count in counts.values()) < 5 * np.sqrt(600 * 0.9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(0, 5), st.integers(0, 100))
def test_subsets_of_mixed_sizes_equal_floyds_algorithm_one_at_a_time(counts, room, seed):
    uniform = np.random.default_rng(seed).random(sum(counts))
    sizes = np.array(counts) + room
    found, numbers = draw_subsets(sizes, np.array(counts), uniform).tolist(), iter(uniform.tolist())
    for size, count in zip(sizes.tolist(), counts, strict=True):
        chosen: set[int] = set()
        for last in range(size - count, size):
            number = int(next(numbers) * (last + 1))
            chosen.add(last if number in chosen else number)
        assert found[:count] == sorted(chosen)
        del found[:count]
    assert not found


def slow_meta_dataset(support_sizes, query_sizes, generator):
    """One episode's ways, shots and queries, by the formulas of the paper, number by number."""
    ways = generator.integers(5, min(50, len(support_sizes)) + 1)
    classes = generator.permutation(len(support_sizes))[:ways]
    beta = generator.random()
    total = min(500, sum(int(np.floor(beta * min(100, support_sizes[c]) + 1)) for c in classes))
    weights = [support_sizes[c] * np.exp(generator.uniform(np.log(0.5), np.log(2))) for c in classes]
    shots = [
        min(int(np.floor(w / sum(weights) * (total - ways))) + 1, support_sizes[c])
        for w, c in zip(weights, classes, strict=True)
    ]
    return ways, classes, shots, min(10, *(query_sizes[c] for c in classes))


@pytest.mark.parametrize(("low", "high", "classes"), [(3, 40, 12), (60, 400, 60)])
def test_meta_dataset_episodes_have_the_statistics_of_its_formulas(low, high, classes):
    generator = np.random.default_rng(3)
    sizes = generator.integers(low, high, classes)
    query_sizes = generator.integers(1, 30, classes)
    number = 4000
    drawn = draw_supports(labels_of(sizes), MetaDatasetSampler(), episodes=number, seed=5).composition
    slow = [slow_meta_dataset(sizes, query_sizes, generator) for _ in range(number)]
    ways = np.bincount(drawn.episode)
    totals = np.bincount(drawn.episode, drawn.shots)
    most = min(50, classes)
    assert (ways.min(), ways.max()) == (5, most)
    histogram = np.bincount(ways, minlength=most + 1)[5:]
    expected = number / (most - 4)
    assert np.abs(histogram - expected).max() < 5 * np.sqrt(expected)
    assert drawn.shots.min() == 1
    assert totals.max() <= 500

    def agree(mine, theirs):
        error = np.sqrt(np.var(mine) / len(mine) + np.var(theirs) / len(theirs))
        assert abs(np.mean(mine) - np.mean(theirs)) < 4.5 * error

    slow_totals = np.array([sum(shots) for _, _, shots, _ in slow])
    agree(ways, np.array([ways for ways, _, _, _ in slow]))
    agree(totals, slow_totals)
    agree(totals**2, slow_totals**2)
    agree(totals / ways, np.array([sum(shots) / ways for ways, _, shots, _ in slow]))
    spread = np.bincount(drawn.episode, drawn.shots**2) * ways / totals**2
    agree(spread, np.array([w * np.square(shots).sum() / sum(shots) ** 2 for w, _, shots, _ in slow]))
    largest, smallest = int(sizes.argmax()), int(sizes.argmin())
    # Classes are numbered by appearance, so those of one size are found through the labels.
    labels = labels_of(sizes)
    _, first = np.unique(labels, return_index=True)
    number_of = np.argsort(np.argsort(first))
    for label in (largest, smallest):
        theirs = [s for _, members, shots, _ in slow for c, s in zip(members, shots, strict=True) if c == label]
        agree(drawn.shots[drawn.group == number_of[label]], np.array(theirs))


def test_meta_dataset_queries_are_as_many_as_the_smallest_class_has_ten_at_most():
    support, query_sizes = labels_of([9, 20, 4, 30, 12, 8, 7]), [4, 12, 40, 11, 25, 30, 15]
    listed = episodes_of(MetaDatasetSampler(), support, labels_of(query_sizes, 1), episodes=200)
    assert {len(episode) for episode in listed} == {5, 6, 7}
    seen = set()
    for episode in listed:
        expected = min(10, *(query_sizes[label] for label in episode))
        assert {len(rows) for _, rows in episode.values()} == {expected}
        seen.add(expected)
    assert seen == {4, 10}


def test_support_draws_depend_on_support_labels_and_seed_alone():
    support = labels_of([9] * 8)
    drawn = draw_supports(support, FIXED, episodes=20, seed=4)
    again = draw_supports(support, FIXED, episodes=20, seed=4)
    other = draw_supports(support, FIXED, episodes=20, seed=5)
    np.testing.assert_array_equal(drawn.positions[drawn.rows], again.positions[again.rows])
    assert not np.array_equal(drawn.composition.group, other.composition.group)
    renamed = draw_supports(np.random.default_rng(0).permutation(8)[support], FIXED, episodes=20, seed=4)
    np.testing.assert_array_equal(drawn.positions[drawn.rows], renamed.positions[renamed.rows])
    np.testing.assert_array_equal(drawn.composition.group, renamed.composition.group)


def test_more_episodes_are_the_same_ones_and_further_ones():
    support, query = labels_of([9] * 8), labels_of([7] * 8, 1)
    few, many = (episodes_of(FIXED, support, query, episodes=n) for n in (6, 13))
    for one, other in zip(few, many, strict=False):
        assert list(one) == list(other)
        for label, parts in one.items():
            for mine, theirs in zip(parts, other[label], strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_classes_without_enough_queries_are_replaced_by_the_next_of_the_episodes_order():
    support, query = labels_of([6] * 9), labels_of([3, 8, 2, 8, 8, 0, 8, 8, 8], 1)
    drawn = draw_supports(support, FIXED, episodes=60, seed=0)
    assert {2, 5} < set(support[drawn.positions].tolist())
    listed = episodes_of(FIXED, support, query, episodes=60)
    whole = episodes_of(FIXED, support, labels_of([8] * 9, 1), episodes=60)
    replaced = 0
    for episode, unrestricted in zip(listed, whole, strict=True):
        assert len(episode) == 5
        assert not {2, 5} & set(episode)
        assert {label for label in unrestricted if label not in (2, 5)} <= set(episode)
        for label, (images, rows) in episode.items():
            assert (support[images] == label).all()
            assert (len(images), len(rows)) == (2, 3)
            if label in unrestricted:
                np.testing.assert_array_equal(images, unrestricted[label][0])
            else:
                replaced += 1
                theirs = [tuple(other[label][0]) for other in whole if label in other]
                assert tuple(images) in theirs
    assert replaced > 30


def test_classes_that_replace_others_leave_every_set_equally_likely():
    support, query = labels_of([6] * 6), labels_of([3, 3, 3, 3, 0, 3], 1)
    sampler = FixedSampler(ways=2, shots=1, asked=3)
    sets = Counter(tuple(sorted(episode)) for episode in episodes_of(sampler, support, query, episodes=3000))
    assert set(sets) == set(combinations([0, 1, 2, 3, 5], 2))
    assert max(abs(count - 300) for count in sets.values()) < 5 * np.sqrt(300 * 0.9)


def test_support_images_of_a_replacement_are_those_of_the_next_episode_with_that_class():
    support, query = labels_of([6] * 5), labels_of([3, 3, 3, 3, 0], 1)
    sampler = FixedSampler(ways=3, shots=1, asked=3)
    listed = episodes_of(sampler, support, query, episodes=12)
    whole = episodes_of(sampler, support, labels_of([3] * 5, 1), episodes=12)
    checked = 0
    for e, (episode, unrestricted) in enumerate(zip(listed, whole, strict=True)):
        for label in set(episode) - set(unrestricted):
            later = next(w for w in [*whole[e:], *whole[:e]] if label in w)
            np.testing.assert_array_equal(episode[label][0], later[label][0])
            checked += 1
    assert checked


def test_meta_dataset_also_passes_over_classes_without_queries():
    support, query = labels_of([9] * 8), labels_of([6, 6, 0, 6, 6, 6, 0, 6], 1)
    listed = episodes_of(MetaDatasetSampler(), support, query, episodes=80)
    assert {len(episode) for episode in listed} == {5, 6}
    assert not {2, 6} & {label for episode in listed for label in episode}
    assert all(len(rows) == 6 and len(images) for episode in listed for images, rows in episode.values())


def test_the_order_of_two_classes_does_not_depend_on_the_others():
    whole = class_order(np.ones(7, bool), episodes=30, seed=1)
    allowed = np.array([True, False, True, True, False, True, True])
    for row, part in zip(whole, class_order(allowed, episodes=30, seed=1), strict=True):
        assert [c for c in row.tolist() if allowed[c]] == part.tolist()


def test_too_few_classes_are_refused_with_their_number_and_what_to_do():
    with pytest.raises(DataError, match="5 classes with at least 2 support images are needed, but 4 of 6") as error:
        draw_supports(labels_of([2, 1, 2, 2, 1, 2]), FIXED, episodes=3, seed=0)
    assert error.value.hint == "ask for fewer: episodes:shots=1"
    with pytest.raises(DataError, match="but 3 of 3 classes have as many") as error:
        draw_supports(labels_of([2, 2, 2]), FIXED, episodes=3, seed=0)
    assert error.value.hint == "ask for fewer ways: episodes:ways=3"
    with pytest.raises(DataError, match="5 classes with at least 1 support images are needed, but 4 of 4") as error:
        draw_supports(labels_of([9] * 4), MetaDatasetSampler(), episodes=3, seed=0)
    assert "sampler=fixed" in error.value.hint
    with pytest.raises(DataError, match="support split is empty"):
        draw_supports(np.empty(0, np.int64), FIXED, episodes=3, seed=0)
    with pytest.raises(DataError, match=r"at least 3 query images .* but 4 of the 6 .* the fullest has 7") as error:
        episodes_of(FIXED, labels_of([9] * 6), labels_of([3, 2, 7, 1, 3, 3], 1))
    assert "raise --limit" in error.value.hint
    assert error.value.hint.endswith("episodes:queries=2")
