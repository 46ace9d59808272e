"""The attacks of torchattacks 3.5.1, known without importing it: norms, budgets, parameters and their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from harness_attacks.torchattacks_schema import LibraryAttack, Tunable


def _alpha(default: float) -> Tunable:
    return Tunable("alpha_255", float, default, "step size", "1/255", 0)


def _steps(default: int, low: int = 1, text: str = "steps") -> Tunable:
    return Tunable("steps", int, default, text, low=low)


def _decay(default: float) -> Tunable:
    return Tunable("decay", float, default, "decay of the momentum", low=0)


def _random_start(default: bool) -> Tunable:
    return Tunable("random_start", bool, default, "start at a random point of the ball instead of at the image")


def _restarts(text: str = "random starts, tried on the images that are still classified correctly") -> Tunable:
    return Tunable("n_restarts", int, 1, text, low=1)


def _loss(default: str, *names: str) -> Tunable:
    return Tunable("loss", Literal[(default, *names)], default, "what is raised; dlr needs three classes")


_ALPHA, _STEPS = _alpha(2.0), _steps(10)
_NORM = Tunable("norm", Literal["Linf", "L2"], "Linf", "the norm whose ball holds the change")
_EOT = Tunable("eot_iter", int, 1, "gradients that are averaged for one step, for targets that are random", low=1)
_RHO = Tunable("rho", float, 0.75, "share of the steps that must raise the loss, or the step size is halved", "", 0, 1)
_TARGETS = Tunable(
    "n_target_classes", int, 9, "how many classes it aims at in turn, those of the highest scores", "classes", 1
)
_DIVERSE = (
    Tunable("resize_rate", float, 0.9, "smallest size of the resized image; not 1", "of its size", 0.1, 4),
    Tunable("diversity_prob", float, 0.5, "how often the image is resized and padded", "probability", 0, 1),
)
_KAPPA = Tunable("kappa", float, 0.0, "margin by which the label shall be beaten", low=0)
_ELASTIC = (
    _KAPPA,
    Tunable("lr", float, 0.01, "step size", low=0),
    Tunable("binary_search_steps", int, 9, "searches for the weight of the loss", low=1),
    Tunable("max_iterations", int, 100, "steps of each search", low=10),
    Tunable("abort_early", bool, True, "end a search whose loss no longer falls"),
    Tunable("initial_const", float, 0.001, "weight of the loss at first", low=0),
    Tunable("beta", float, 0.001, "weight of the l1 distance, and threshold of its shrinking", low=0),
)
_SMOOTHED = (
    Tunable(
        "noise_type", Literal["guassian", "uniform"], "guassian", "noise of the smoothing, as the library spells it"
    ),
    Tunable("noise_sd", float, 0.5, "its standard deviation, or half the width of uniform noise", low=0),
    Tunable("noise_batch_size", int, 5, "draws of it for each image", low=1),
    Tunable("batch_max", int, 2048, "images with noise that are run at once", low=1),
)
_DIVISOR = Tunable("eps_for_division", float, 1e-10, "added to the norm of a gradient before dividing by it", low=0)
_NEIGHBOURS = (
    Tunable("N", int, 5, "neighbours whose gradients tell the variance", low=1),
    Tunable("beta", float, 1.5, "how far away they lie", "eps", 0),
)
_OVERSHOOT = Tunable("overshoot", float, 0.02, "how far beyond the boundary", "of the way to it", 0)
_AMPLIFIED = (
    Tunable("num_iter_set", int, 10, "steps", low=1),
    Tunable("momentum", float, 1.0, "not used by the library"),
    Tunable("amplification", float, 10.0, "step size", "eps / steps", 0),
    Tunable("prob", float, 0.7, "not used by the library"),
)
_MAPPINGS = Literal["random", "similarity", "similarity_random", "distance", "distance_random"]
_KERNELS = Literal["gaussian", "linear", "uniform"]


def _attack(library_name: str, summary: str, *tunables: Tunable, **facts: Any) -> LibraryAttack:
    return LibraryAttack(library_name=library_name, summary=summary, tunables=tunables, **facts)


_ATTACKS = (
    _attack("VANILA", "the images as they are", norm=None),
    _attack(
        "GN",
        "Gaussian noise",
        Tunable("std", float, 0.1, "standard deviation", "of the range [0, 1]", 0),
        norm=None,
        stochastic=True,
        gradient_free=True,
    ),
    _attack("FGSM", "one step along the sign of the gradient"),
    _attack(
        "BIM",
        "iterated FGSM without a random start",
        _ALPHA,
        _steps(10, low=0, text="steps; 0: min(eps_255 + 4, 1.25 eps_255), as in its paper"),
    ),
    _attack("RFGSM", "gradient steps after one random step", _ALPHA, _STEPS, stochastic=True),
    _attack("PGD", "projected gradient steps", _ALPHA, _STEPS, _random_start(True), stochastic=True),
    _attack(
        "EOTPGD",
        "PGD on the mean of several gradients, for targets that are random",
        _ALPHA,
        _STEPS,
        dataclasses.replace(_EOT, default=2),
        _random_start(True),
        stochastic=True,
    ),
    _attack("FFGSM", "one step after a random start", _alpha(10.0), stochastic=True),
    _attack("TPGD", "PGD that raises the divergence from the clean scores", _ALPHA, _STEPS, stochastic=True),
    _attack("MIFGSM", "gradient steps with momentum", _ALPHA, _STEPS, _decay(1.0)),
    _attack(
        "UPGD",
        "PGD with a choice of losses, momentum and averaged gradients",
        _ALPHA,
        _STEPS,
        _random_start(False),
        _loss("ce", "margin", "dlr"),
        _decay(1.0),
        _EOT,
        stochastic=True,
    ),
    _attack(
        "APGD",
        "PGD that sets its own step sizes",
        _NORM,
        _STEPS,
        _restarts(),
        _loss("ce", "dlr"),
        _EOT,
        _RHO,
        norm="chosen",
        stochastic=True,
    ),
    _attack(
        "APGDT",
        "APGD towards several classes in turn; needs four classes",
        _NORM,
        _STEPS,
        _restarts(),
        _EOT,
        _RHO,
        _TARGETS,
        norm="chosen",
        stochastic=True,
    ),
    _attack(
        "DIFGSM",
        "MI-FGSM on resized and padded images",
        _ALPHA,
        _STEPS,
        _decay(0.0),
        *_DIVERSE,
        _random_start(False),
        stochastic=True,
    ),
    _attack(
        "TIFGSM",
        "DI-FGSM with gradients smoothed over shifts",
        _ALPHA,
        _STEPS,
        _decay(0.0),
        Tunable("kernel_name", _KERNELS, "gaussian", "how shifts are weighted"),
        Tunable("len_kernel", int, 15, "side of the kernel", "pixels", 1),
        Tunable("nsig", float, 3.0, "where a Gaussian kernel is cut", "standard deviations", 0),
        *_DIVERSE,
        _random_start(False),
        stochastic=True,
    ),
    _attack(
        "Jitter",
        "PGD on the distance of scaled and jittered probabilities",
        _ALPHA,
        _STEPS,
        Tunable("scale", float, 10.0, "factor of the scores", low=0),
        Tunable("std", float, 0.1, "standard deviation of the jitter", "probability", 0),
        _random_start(True),
        stochastic=True,
    ),
    _attack("NIFGSM", "MI-FGSM with Nesterov's look ahead", _ALPHA, _STEPS, _decay(1.0)),
    _attack("PGDRS", "PGD on scores smoothed by noise", _ALPHA, _STEPS, *_SMOOTHED, stochastic=True),
    _attack(
        "SINIFGSM",
        "NI-FGSM on copies of several scales",
        _ALPHA,
        _STEPS,
        _decay(1.0),
        Tunable("m", int, 5, "copies, each half as bright as the last", low=1),
    ),
    _attack("VMIFGSM", "MI-FGSM tuned by variance", _ALPHA, _STEPS, _decay(1.0), *_NEIGHBOURS, stochastic=True),
    _attack("VNIFGSM", "NI-FGSM tuned by variance", _ALPHA, _STEPS, _decay(1.0), *_NEIGHBOURS, stochastic=True),
    _attack(
        "SPSA",
        "steps along gradients estimated from scores",
        Tunable("delta", float, 0.01, "how far away scores are compared", "of the range [0, 1]", 0),
        Tunable("lr", float, 0.01, "step size, whatever eps is", "of the range [0, 1]", 0),
        Tunable("nb_iter", int, 1, "steps", low=1),
        Tunable("nb_sample", int, 128, "comparisons for one step", low=1),
        Tunable("max_batch_size", int, 64, "comparisons that are run at once", low=1),
        stochastic=True,
        gradient_free=True,
    ),
    _attack(
        "JSMA",
        "pairs of values that a saliency map ranks highest, towards the next class; for small images",
        Tunable("theta", float, 1.0, "by how much a value changes", "of the range [0, 1]", -1, 1),
        Tunable("gamma", float, 0.1, "how many values may change", "of all", 0, 1),
        norm=None,
    ),
    _attack("EADL1", "least l1 distance by elastic-net steps", *_ELASTIC, norm=None),
    _attack("EADEN", "least elastic-net distance by elastic-net steps", *_ELASTIC, norm=None),
    _attack("PIFGSM", "amplified steps whose excess goes to neighbouring pixels", *_AMPLIFIED, budget="max_epsilon"),
    _attack(
        "PIFGSMPP",
        "PI-FGSM with smoothed gradients",
        *_AMPLIFIED,
        Tunable("project_factor", float, 0.8, "how much of the excess goes to neighbouring pixels", low=0),
        budget="max_epsilon",
    ),
    _attack(
        "CW",
        "least l2 distance by gradient steps in the inverse hyperbolic tangent of the pixels",
        Tunable("c", float, 1.0, "weight of the loss against the distance", low=0),
        _KAPPA,
        _steps(50),
        Tunable("lr", float, 0.01, "learning rate of Adam", low=0),
        norm=None,
    ),
    _attack(
        "PGDL2",
        "projected gradient steps in an l2 ball",
        _alpha(51.0),
        _STEPS,
        _random_start(True),
        _DIVISOR,
        norm="l2",
        stochastic=True,
    ),
    _attack("DeepFool", "steps to the nearest boundary as if scores were linear", _steps(50), _OVERSHOOT, norm=None),
    _attack(
        "PGDRSL2",
        "PGD in an l2 ball on scores smoothed by noise",
        _alpha(51.0),
        _STEPS,
        *_SMOOTHED,
        _DIVISOR,
        norm="l2",
        stochastic=True,
    ),
    _attack(
        "SparseFool",
        "DeepFool that changes few values",
        _STEPS,
        Tunable("lam", float, 3.0, "how far beyond the boundary the plane is laid", "of the way to it", 1),
        _OVERSHOOT,
        norm=None,
    ),
    _attack(
        "OnePixel",
        "single pixels, found by differential evolution",
        Tunable("pixels", int, 1, "pixels that change", low=1),
        _steps(10, text="generations"),
        Tunable("popsize", int, 10, "size of a generation", low=1),
        Tunable("inf_batch", int, 128, "images that are run at once", low=1),
        norm=None,
        stochastic=True,
        gradient_free=True,
    ),
    _attack(
        "Pixle",
        "pixels laid over others; for square images",
        Tunable("x_dimensions", tuple[int, int], (2, 10), "smallest and largest width of a patch", "pixels", 1),
        Tunable("y_dimensions", tuple[int, int], (2, 10), "smallest and largest height of a patch", "pixels", 1),
        Tunable("pixel_mapping", _MAPPINGS, "random", "which pixels are laid over which"),
        Tunable("restarts", int, 20, "patches", low=0),
        Tunable("max_iterations", int, 10, "tries for each patch", low=1),
        Tunable("update_each_iteration", bool, False, "lay each try over the last"),
        norm=None,
        stochastic=True,
        gradient_free=True,
    ),
    _attack(
        "FAB",
        "least distance by projections to the boundary, kept if it lies within eps",
        _NORM,
        _STEPS,
        _restarts("starts, of which those after the first are random"),
        Tunable("alpha_max", float, 0.1, "largest pull back towards the image", low=0, high=1),
        Tunable("eta", float, 1.05, "overshoot beyond the boundary", low=1),
        Tunable("beta", float, 0.9, "step back from the boundary", low=0, high=1),
        Tunable("multi_targeted", bool, False, "aim at several classes in turn"),
        _TARGETS,
        norm="chosen",
        stochastic=True,
    ),
    _attack(
        "AutoAttack",
        "APGD, APGDT, FAB and Square one after the other, each on what the last left",
        _NORM,
        Tunable(
            "version", Literal["standard", "plus", "rand"], "standard", "which of them; all but rand need four classes"
        ),
        _TARGETS,
        norm="chosen",
        stochastic=True,
    ),
    _attack(
        "Square",
        "random squares, by scores only",
        _NORM,
        Tunable("n_queries", int, 5000, "scores that are asked for, per restart and image", low=1),
        _restarts(),
        Tunable("p_init", float, 0.8, "size of the first squares", "of the image", 0, 1),
        Tunable("loss", Literal["margin", "ce"], "margin", "what is lowered"),
        Tunable("resc_schedule", bool, True, "spread the schedule of sizes over n_queries"),
        norm="chosen",
        stochastic=True,
        gradient_free=True,
    ),
)

TORCHATTACKS: dict[str, LibraryAttack] = {attack.name: attack for attack in _ATTACKS}
"""The attacks by the names of their entries."""
