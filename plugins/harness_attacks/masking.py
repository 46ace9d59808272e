"""Gradient masking: measurements beside the accuracy under attack that say whether the attack could work at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.paired import holm, paired_bootstrap, permutation_test
from harness.params import checked
from harness.stats import Interval, bootstrap_mean, wilson
from harness.types import Measurement
from harness_attacks.masking_cells import Cell, PerImage, cells_of, clean_correct, rows_of
from harness_attacks.masking_contrasts import Contrast, against_black_box, along_eps, along_steps, one_step_against_many
from harness_attacks.masking_parameters import MaskingParams
from harness_attacks.realised import ATTACK_SUCCESS, FIRST_RESTART_SUCCESS, ZERO_GRADIENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.protocols import SummaryInput
    from harness.types import JSONScalar


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """Whether a check raised its flag, over ``n`` images."""

    name: str
    dims: Mapping[str, JSONScalar]
    raised: bool
    n: int


class GradientMasking:
    """Signs that gradients misled the attacks on a model, so that its accuracy under them says little.

    After Athalye et al., "Obfuscated Gradients Give a False Sense of Security" (2018), section 3.1, and Carlini et al.,
    "On Evaluating Adversarial Robustness" (2019), over all attacks with an eps on one model, dataset and probe. Per
    ``attack`` and ``level`` (its eps, in 255ths):

    * ``zero_gradient_share``: the share of the entries of the first gradient that are exactly zero, where that was
      recorded; flag ``zero_gradient`` above ``zero_gradient``;
    * ``restart_gain``: accuracy of the attacked scores under the first start alone minus that under all of them; flag
      above ``restart_gain``;
    * ``fgsm_minus_pgd``: accuracy under FGSM (``against``) minus that under PGD (``attack``) at equal eps; flag
      ``pgd_weaker`` where it is significantly negative;
    * ``rise_with_eps``: the largest rise of accuracy from one eps (``from_level``; 0 is the clean image) to the next
      larger; flag where it is significant, but none for attacks of one step, which may well overshoot;
    * ``rise_with_steps``: the largest rise from a number of steps (``from_steps``) to the next larger (``steps``) of
      attacks that are alike otherwise; flag where it is significant;
    * ``floor_at_large_eps``: accuracy at the largest eps, if that is ``large_eps`` in l-inf or more; flag where its
      interval lies above chance, 1 / classes;
    * ``black_box_minus_white_box``: accuracy under an attack that saw no gradient of the model minus that under the
      strongest for each image of all white-box attacks in the same norm; flag ``black_box_stronger`` where it is
      significantly negative.

    * ``steps_reach_eps``: 0 for an attack whose steps, laid end to end, are shorter than its eps; flag
      ``steps_too_short``. An attack whose steps are long enough has no row.

    Each check gives a ``masking_flag``, 1 if raised, with the dimensions of its measurement and ``flag``;
    ``masking_flags`` counts them, in all and for each ``flag``, with ``n`` checks. No flag is no proof that nothing is
    masked: only what was run can be checked.

    Numbers are compared only between attacks of equal norm, goal, target, loss, source, precision and quantisation; a
    black-box attack, which is anything that saw no gradient of the model, and its white-box rivals share the norm
    only. The last five need untargeted attacks, and white-box ones on the very scores that are asked: a head's where
    the probe is ``head``, or the probe's. Where PGD's steps, laid end to end, are shorter than eps, it is compared
    with nothing at that eps, for it cannot reach what a larger step does. Seeds are averaged within each image;
    comparisons are paired over the images that both have, with intervals over resampled images. Significant means a
    permutation test whose p-value, by Holm over all comparisons of the kind, is at most ``alpha``.
    """

    def __init__(
        self, *, zero_gradient: float = 0.1, restart_gain: float = 0.05, large_eps: float = 32.0, alpha: float = 0.05
    ) -> None:
        given = MaskingParams(zero_gradient=zero_gradient, restart_gain=restart_gain, large_eps=large_eps, alpha=alpha)
        self._params = checked(given, "gradient_masking")

    def compute(self, group: Sequence[SummaryInput], clean: SummaryInput | None) -> list[Measurement]:
        """The measurements above; none where no attack with an eps is among the records."""
        cells = cells_of(group)
        measurements: list[Measurement] = []
        flags: list[_Flag] = []
        for found, raised in (
            self._zero_gradients(cells),
            self._restarts(cells),
            self._contrasts(cells, clean),
            self._floors(cells),
            self._short_steps(cells),
        ):
            measurements += found
            flags += raised
        if not measurements:
            return []
        return [*_counts(flags), *measurements, *(_flag_row(flag) for flag in flags)]

    def _zero_gradients(self, cells: Sequence[Cell]) -> tuple[list[Measurement], list[_Flag]]:
        measurements, flags = [], []
        for cell in cells:
            # The gradient of a transfer attack is another network's.
            if cell.attack.aim.source is None and (share := cell.realised(ZERO_GRADIENT)) is not None:
                dims = _dims(cell)
                interval = bootstrap_mean(share.values)
                measurements.append(
                    _row("zero_gradient_share", dims, share.mean, interval, len(share.values), higher_is_better=False)
                )
                flags.append(_flag("zero_gradient", dims, share.mean > self._params.zero_gradient, share))
        return measurements, flags

    def _short_steps(self, cells: Sequence[Cell]) -> tuple[list[Measurement], list[_Flag]]:
        """Attacks that cannot get as far as their budget: their accuracy speaks of a smaller one."""
        measurements, flags = [], []
        for cell in cells:
            if cell.eps_255 > 0 and not cell.attack.reaches(cell.eps_255):
                dims = _dims(cell)
                measurements.append(
                    Measurement(metric="steps_reach_eps", value=0.0, n=1, dims=dims, unit="flag", counted="attacks")
                )
                flags.append(_Flag(name="steps_too_short", dims=dims, raised=True, n=1))
        return measurements, flags

    def _restarts(self, cells: Sequence[Cell]) -> tuple[list[Measurement], list[_Flag]]:
        measurements, flags = [], []
        for cell in cells:
            every, first = cell.realised(ATTACK_SUCCESS), cell.realised(FIRST_RESTART_SUCCESS)
            if every is None or first is None:
                continue
            gain = PerImage(positions=every.positions, values=every.values - first.at(every.positions))
            dims = _dims(cell)
            interval = bootstrap_mean(gain.values)
            measurements.append(
                _row("restart_gain", dims, gain.mean, interval, len(gain.values), higher_is_better=False)
            )
            flags.append(_flag("restart_gain", dims, gain.mean > self._params.restart_gain, gain))
        return measurements, flags

    def _contrasts(self, cells: Sequence[Cell], clean: SummaryInput | None) -> tuple[list[Measurement], list[_Flag]]:
        found: list[Contrast] = []
        for dims in rows_of(cells):
            answers = [(cell, correct) for cell in cells if (correct := cell.correct(dims)) is not None]
            found += one_step_against_many(answers, dims)
            found += along_eps(answers, clean_correct(clean, dims), dims)
            found += along_steps(answers, dims)
            found += against_black_box(answers, dims)
        significant = self._significant(found)
        measurements, flags = [], []
        for place, contrast in enumerate(found):
            if not contrast.is_shown:
                continue
            interval = paired_bootstrap(contrast.first, contrast.second)
            measurements.append(_row(contrast.metric, contrast.dims, contrast.value, interval, len(contrast.first)))
            if contrast.flag is not None:
                raised = contrast.is_suspicious and place in significant
                flags.append(_Flag(name=contrast.flag, dims=contrast.dims, raised=raised, n=len(contrast.first)))
        return measurements, flags

    def _significant(self, contrasts: Sequence[Contrast]) -> set[int]:
        """The places of those whose two sides differ by more than chance, by Holm within each kind."""
        places: dict[str, list[int]] = {}
        for place, contrast in enumerate(contrasts):
            if contrast.flag is not None:
                places.setdefault(contrast.flag, []).append(place)
        significant: set[int] = set()
        for members in places.values():
            p_values = [permutation_test(contrasts[place].first, contrasts[place].second) for place in members]
            adjusted = zip(members, holm(p_values), strict=True)
            significant.update(place for place, p in adjusted if p <= self._params.alpha)
        return significant

    def _floors(self, cells: Sequence[Cell]) -> tuple[list[Measurement], list[_Flag]]:
        measurements, flags = [], []
        for dims in rows_of(cells):
            largest: dict[str, Cell] = {}
            for cell in cells:
                attack = cell.attack
                if attack.lowers_accuracy and attack.climbs and attack.aim.norm == "linf":
                    largest[attack.fingerprint] = cell  # cells come by rising eps
            for cell in largest.values():
                correct = cell.correct(dims)
                too_small = cell.eps_255 < self._params.large_eps or not cell.attack.reaches(cell.eps_255)
                if correct is None or too_small:
                    continue
                place, interval = {**dims, **_dims(cell)}, _accuracy_interval(correct)
                measurements.append(_row("floor_at_large_eps", place, correct.mean, interval, len(correct.values)))
                chance = 1 / int(cell.inputs[0].record.cell["num_classes"])
                flags.append(_flag("floor_at_large_eps", place, interval.low > chance, correct))
        return measurements, flags


def _accuracy_interval(correct: PerImage) -> Interval:
    if correct.seeds == 1:
        return wilson(round(correct.values.sum()), len(correct.values))
    return bootstrap_mean(correct.values)


def _dims(cell: Cell) -> dict[str, JSONScalar]:
    return {"attack": cell.attack.label, "level": cell.eps_255}


def _flag(name: str, dims: Mapping[str, JSONScalar], raised: bool, over: PerImage) -> _Flag:
    return _Flag(name=name, dims=dims, raised=raised, n=len(over.values))


def _row(
    metric: str,
    dims: Mapping[str, JSONScalar],
    value: float,
    interval: Interval,
    n: int,
    *,
    higher_is_better: bool | None = None,
) -> Measurement:
    return Measurement(
        metric=metric,
        value=value,
        n=n,
        dims=dict(dims),
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        higher_is_better=higher_is_better,
    )


def _flag_row(flag: _Flag) -> Measurement:
    return Measurement(
        metric="masking_flag",
        value=float(flag.raised),
        n=flag.n,
        dims={"flag": flag.name, **flag.dims},
        unit="flag",
        higher_is_better=False,
    )


def _counts(flags: Sequence[_Flag]) -> list[Measurement]:
    names = sorted({flag.name for flag in flags})
    counted: list[tuple[dict[str, JSONScalar], list[_Flag]]] = [({}, list(flags))]
    counted += [({"flag": name}, [flag for flag in flags if flag.name == name]) for name in names]
    return [
        Measurement(
            metric="masking_flags",
            value=float(sum(flag.raised for flag in members)),
            n=len(members),
            dims=dims,
            unit="flags",
            higher_is_better=False,
            counted="checks",
        )
        for dims, members in counted
    ]
