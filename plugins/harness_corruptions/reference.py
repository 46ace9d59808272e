"""The package imagecorruptions 1.1.2 as reference: made to run on current libraries, and seeded by image id.

As it stands on the registry it cannot be imported without ``pkg_resources``, five of its functions stop on current
NumPy or scikit-image, and its noise is seeded globally or not at all. Here its module is executed a second time, as a
private copy in which a few names mean something else. Nothing outside that copy changes: no library, no global random
state, and not the package itself, should somebody import it.
"""

from __future__ import annotations

import builtins
import functools
import importlib.util
import threading
import types
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from harness import rng
from harness.errors import DataError, MissingDependencyError, ParameterError, PluginError
from harness.targets import missing_packages
from harness_corruptions.parameters import SEVERITY
from harness_corruptions.plugin import BENCHMARK, EXTRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from torch import Tensor

    from harness.types import ImageBatch

NAMES = tuple(name for name, _, _ in (*BENCHMARK, *EXTRA))
"""The functions of the package that are corruptions."""

SMALLEST_SIDE_PX = 32
"""The package takes no smaller images."""

_PACKAGE = "imagecorruptions"
_FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
_lock = threading.Lock()


def require_package() -> None:
    """Raise :class:`~harness.errors.MissingDependencyError` unless the package is installed; it is not imported."""
    if missing_packages("corruptions"):
        raise MissingDependencyError(f"the package {_PACKAGE} is not installed", extra="corruptions")


def package() -> types.ModuleType:
    """A private copy of ``imagecorruptions.corruptions`` whose functions run on current libraries.

    Called directly, they draw from NumPy's global state, as they always did; :func:`corrupt_one` seeds them. Raises
    :class:`~harness.errors.MissingDependencyError` where the package is not installed, and
    :class:`~harness.errors.PluginError` for a version whose numbers are others or that cannot be loaded.
    """
    require_package()
    with _lock:
        return _loaded()


def corrupt_one(name: str, image: npt.NDArray[np.uint8], severity: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """One (H, W, 3) uint8 image corrupted by the package, a function of its arguments alone; ``image`` stays as it is.

    ``seed`` is any of [0, 2**32). It does what ``numpy.random.seed(seed)`` would do to the package, and seeds
    ``impulse_noise`` as well, which that does not reach. Where the package would print that it caught an error and go
    on with something else, or divide by zero (``spatter@1`` of 32 pixels does for one seed in 65, and gives a black
    image), that is an error here. Raises
    :class:`~harness.errors.DataError` for sides below 32 pixels, :class:`~harness.errors.ParameterError` for any other
    argument it cannot take, and :class:`~harness.errors.PluginError` where the package fails.
    """
    if name not in NAMES:
        raise ParameterError(f"{_PACKAGE} has no corruption {name!r}", hint=f"it has {', '.join(NAMES)}")
    severity = int(SEVERITY.check(severity, name))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ParameterError(f"{name}: expected an (H, W, 3) uint8 image, found {image.shape} {image.dtype}")
    _check_size(name, (image.shape[0], image.shape[1]))
    module = package()
    with _lock, _seeded(module, seed):
        try:
            with np.errstate(divide="raise", invalid="raise"):
                # The package itself ends in numpy.uint8 as well, which cuts and does not round.
                return np.array(getattr(module, name)(Image.fromarray(image), severity)).astype(np.uint8)
        except Exception as error:  # whatever its code and the libraries below it may raise
            raise PluginError(
                f"{_PACKAGE} fails on {name}@{severity} of {image.shape[1]} x {image.shape[0]} pixels: "
                f"{type(error).__name__}: {error}",
                hint="implementation=native computes the same corruption without the package",
            ) from error


def corrupted(batch: ImageBatch, name: str, severity: int, *, seed: int, stream: str) -> Tensor:
    """The images of ``batch``, rounded to 8 bits, corrupted one by one on the CPU: (N, 3, H, W) float32 on its device.

    Every image has its own seed, keyed by (seed, stream, id). Raises as :func:`corrupt_one` does.
    """
    import torch

    _check_size(name, (batch.images.shape[2], batch.images.shape[3]))
    seeds = rng.bits(seed, stream, batch.ids, 1)[:, 0] >> np.uint64(32)
    pixels = batch.images.detach().mul(255).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    results = np.empty(pixels.shape, dtype=np.uint8)
    for place, (image, image_seed) in enumerate(zip(pixels, seeds.tolist(), strict=True)):
        results[place] = corrupt_one(name, np.ascontiguousarray(image), severity, seed=image_seed)
    whole = torch.from_numpy(results).permute(0, 3, 1, 2).contiguous()
    return whole.to(batch.images.device).float().div_(255)


def _check_size(name: str, size: tuple[int, int]) -> None:
    if min(size) < SMALLEST_SIDE_PX:
        raise DataError(
            f"{name}: {size[1]} x {size[0]} pixels; the package {_PACKAGE} takes no side below {SMALLEST_SIDE_PX}",
            hint="use implementation=native, which takes any size, or a view with a larger crop",
        )


class _Over:
    """A module with some names replaced, for those who hold this object."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _ReportedError(Exception):
    """What the package would have printed."""


@functools.cache
def _loaded() -> types.ModuleType:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"{_PACKAGE} is installed, but is no package", hint="reinstall imagecorruptions==1.1.2")
    folder = Path(spec.submodule_search_locations[0])
    path = folder / "corruptions.py"
    try:
        module = _executed(path)
    except Exception as error:  # a module may raise anything while it is executed
        raise PluginError(
            f"{path} cannot be loaded: {type(error).__name__}: {error}",
            hint="pip install --force-reinstall imagecorruptions==1.1.2",
        ) from error
    _check_version(module, folder)
    return module


def _executed(path: Path) -> types.ModuleType:
    import scipy.ndimage

    stand_ins = {
        # Gone from setuptools 82 on.
        "pkg_resources": types.SimpleNamespace(resource_filename=lambda _, name: str(path.parent / name)),
        # Deprecated, and announced to go.
        "scipy.ndimage.interpolation": scipy.ndimage,
    }

    def import_(name: str, *context: Any) -> Any:
        return stand_ins[name] if name in stand_ins else builtins.__import__(name, *context)

    spec = importlib.util.spec_from_file_location(f"{__name__}.package", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # An import statement calls the __import__ of its own module's builtins: sys.modules needs no stand-ins.
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
    spec.loader.exec_module(module)
    vars(module).update(gaussian=_gaussian, print=_report, np=_Over(np, float_=np.float64))
    return module


def _check_version(module: types.ModuleType, folder: Path) -> None:
    lost = [name for name in NAMES if not callable(getattr(module, name, None))]
    lost += [f"frost/{name}" for name in _FROST if not (folder / "frost" / name).is_file()]
    again = "pip install --force-reinstall imagecorruptions==1.1.2"
    if lost:
        raise PluginError(f"the {_PACKAGE} in {folder} lacks {', '.join(lost)}", hint=again)
    # The package's repository went on under the same version number: glass_blur was compiled, with random numbers that
    # no seed of NumPy's reaches, and later on ten severities of other strengths came.
    newer = "its glass_blur draws by itself" if hasattr(module, "njit") else None
    try:
        module.gaussian_noise(np.zeros((1, 1, 3)), 6)
        newer = "it has more than five severities"
    except IndexError:
        pass
    if newer is not None:
        raise PluginError(f"the {_PACKAGE} in {folder} is not version 1.1.2 of the registry: {newer}", hint=again)


@contextmanager
def _seeded(module: Any, seed: int) -> Iterator[None]:
    before = module.np, module.sk
    util = module.sk.util
    noise = partial(util.random_noise, rng=np.random.default_rng(seed))
    module.np = _Over(np, float_=np.float64, random=np.random.RandomState(seed))
    module.sk = _Over(module.sk, util=_Over(util, random_noise=noise))
    try:
        yield
    finally:
        module.np, module.sk = before


def _gaussian(image: npt.NDArray[Any], *args: Any, multichannel: bool = False, **options: Any) -> Any:
    """``skimage.filters.gaussian`` with the keyword it had when the package was written."""
    from skimage.filters import gaussian

    return gaussian(image, *args, channel_axis=-1 if multichannel else None, **options)


def _report(message: str) -> None:
    raise _ReportedError(message)
