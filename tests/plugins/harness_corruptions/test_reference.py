"""The package made to run: all of it, seeded image by image, and with nothing around it changed."""
# ruff: noqa: NPY002 - NumPy's legacy global state is what the package draws from and what must stay as it was

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from harness.errors import DataError, MissingDependencyError, ParameterError, PluginError
from harness.targets import missing_packages
from harness.types import ImageBatch
from harness_corruptions import reference
from harness_corruptions.reference import NAMES, corrupt_one, corrupted, package, require_package

RENDERS = Path(__file__).parents[4] / "shared" / "data" / "corruption_renders"
DETERMINISTIC = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)
RANDOM = [name for name in NAMES if name not in DETERMINISTIC]

needs_package = pytest.mark.skipif(
    bool(missing_packages("corruptions")), reason="the package imagecorruptions is not installed"
)


def photograph(height=40, width=48):
    """Smooth colours with some grain, (height, width, 3) uint8."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(30, 226, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + generator.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)


def batch_of(ids, images):
    return ImageBatch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
        labels=torch.zeros(len(ids), dtype=torch.int64),
        ids=tuple(ids),
        positions=np.arange(len(ids)),
    )


@needs_package
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_corruption_runs_and_depends_on_its_seed_alone(name, severity):
    image = photograph()
    before = image.copy()
    first, second, other = (corrupt_one(name, image, severity, seed=seed) for seed in (1, 1, 2))
    assert first.shape == image.shape
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert (first != image).any()
    assert (first != other).any() == (name in RANDOM)
    assert (image == before).all()


@needs_package
@pytest.mark.parametrize("name", [name for name in NAMES if name != "impulse_noise"])
def test_a_seed_is_that_of_numpys_global_state(name):
    image = photograph()
    kept = np.random.get_state()
    try:
        np.random.seed(7)
        expected = np.uint8(getattr(package(), name)(Image.fromarray(image), 2))
    finally:
        np.random.set_state(kept)
    assert (corrupt_one(name, image, 2, seed=7) == expected).all()


@needs_package
def test_severity_grows_in_steps_of_the_published_noise():
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    for severity, sigma in enumerate((0.08, 0.12), start=1):
        noisy = corrupt_one("gaussian_noise", grey, severity, seed=0)
        assert noisy.std() / 255 == pytest.approx(sigma, rel=0.03)
    for severity, amount in enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1):
        noisy = corrupt_one("impulse_noise", grey, severity, seed=0)
        assert (noisy != 128).mean() == pytest.approx(amount, rel=0.1)


@needs_package
@pytest.mark.parametrize(("severity", "sigma"), [(1, 1), (3, 3)])
def test_colours_are_blurred_apart(severity, sigma):
    image = photograph()
    blurred = gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest")
    found = corrupt_one("gaussian_blur", image, severity, seed=0)
    assert np.abs(found - 255 * blurred).max() <= 1


@needs_package
@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "spatter", "brightness"])
def test_no_global_state_is_touched(name):
    def states():
        kind, keys, *rest = np.random.get_state()
        return kind, keys.tobytes(), *rest, random.getstate(), torch.get_rng_state().numpy().tobytes()

    reference._loaded.cache_clear()
    before, modules = states(), set(sys.modules)
    corrupt_one(name, photograph(), 1, seed=0)
    assert states() == before
    assert not {"pkg_resources", "imagecorruptions", "imagecorruptions.corruptions"} & (set(sys.modules) - modules)
    assert not hasattr(np, "float_")


@needs_package
def test_a_failure_names_the_cell_leaves_no_seed_behind_and_prints_nothing(monkeypatch, capsys):
    module = package()

    def fog(_image, _severity):
        module.np.random.uniform()
        module.print("ValueError for fog, Exception handling")

    generators = module.np.random, module.sk
    before = np.random.get_state()[1].tobytes()
    monkeypatch.setattr(module, "fog", fog)
    with pytest.raises(PluginError, match=r"fails on fog@3 of 48 x 40 pixels.*ValueError for fog"):
        corrupt_one("fog", photograph(), 3, seed=0)
    assert (module.np.random, module.sk) == generators
    assert module.np.random is np.random
    assert np.random.get_state()[1].tobytes() == before
    assert capsys.readouterr() == ("", "")


@needs_package
def test_a_division_by_zero_is_an_error_and_no_black_image():
    grey = np.full((32, 32, 3), 128, dtype=np.uint8)
    told = []
    for seed in range(300):
        try:
            assert corrupt_one("spatter", grey, 1, seed=seed).min() > 0
        except PluginError as error:
            told.append(error.message)
    assert 0 < len(told) < 30
    assert all("FloatingPointError" in message for message in told)


@needs_package
def test_images_of_a_batch_are_seeded_by_their_ids():
    image = photograph()
    batch = batch_of(("a", "b", "c"), [image] * 3)
    whole = corrupted(batch, "gaussian_noise", 1, seed=3, stream="corruption.gaussian_noise")
    alone = corrupted(batch_of(("b",), [image]), "gaussian_noise", 1, seed=3, stream="corruption.gaussian_noise")
    assert whole.shape == batch.images.shape
    assert whole.dtype == torch.float32
    assert (whole[1] == alone[0]).all()
    assert (whole[0] != whole[1]).any()
    for seed, stream in ((4, "corruption.gaussian_noise"), (3, "corruption.shot_noise")):
        assert (corrupted(batch, "gaussian_noise", 1, seed=seed, stream=stream) != whole).any()


@needs_package
def test_pixels_are_rounded_to_the_nearest_of_256_values_on_their_way_in_and_come_back_exact():
    image = photograph()
    batch = batch_of(("a",), [image])
    nudged = [batch.with_images((batch.images + step / 255).clamp(0, 1)) for step in (-0.4, 0.4)]
    expected = torch.from_numpy(corrupt_one("contrast", image, 2, seed=0)).permute(2, 0, 1).float() / 255
    for given in (batch, *nudged):
        assert (corrupted(given, "contrast", 2, seed=0, stream="s")[0] == expected).all()


@needs_package
def test_threads_do_not_mix_their_draws():
    image = photograph()
    expected = [corrupt_one("gaussian_noise", image, 1, seed=seed) for seed in range(8)]
    found = {}

    def work(seed):
        found[seed] = corrupt_one("gaussian_noise", image, 1, seed=seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[seed] == image).all() for seed, image in enumerate(expected))


@needs_package
@pytest.mark.parametrize("size", [(31, 48), (48, 31)])
def test_small_images_are_refused_with_the_way_on(size):
    image = photograph(*size)
    for call in (
        lambda: corrupt_one("fog", image, 1, seed=0),
        lambda: corrupted(batch_of(("a",), [image]), "fog", 1, seed=0, stream="s"),
    ):
        with pytest.raises(DataError, match=f"{size[1]} x {size[0]} pixels") as caught:
            call()
        assert "implementation=native" in caught.value.hint


@needs_package
def test_what_the_package_has_not_is_refused():
    with pytest.raises(ParameterError, match="no corruption 'rain'"):
        corrupt_one("rain", photograph(), 1, seed=0)
    with pytest.raises(ParameterError, match="severity"):
        corrupt_one("fog", photograph(), 6, seed=0)
    with pytest.raises(ParameterError, match="uint8"):
        corrupt_one("fog", photograph().astype(np.float32), 1, seed=0)


def test_where_it_is_not_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    for call in (require_package, package, lambda: corrupt_one("fog", photograph(), 1, seed=0)):
        with pytest.raises(MissingDependencyError) as caught:
            call()
        assert caught.value.extra == "corruptions"


def fake_package(folder, source):
    """A package imagecorruptions of that source, found in place of the real one."""
    found = folder / "imagecorruptions"
    (found / "frost").mkdir(parents=True)
    (found / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (found / "corruptions.py").write_text(source)
    for name in reference._FROST:
        (found / "frost" / name).touch()


FIVE = "def gaussian_noise(x, severity):\n    return [.08, .12, .18, .26, .38][severity - 1]\n"
ELSE = "".join(f"def {name}(x, severity): pass\n" for name in NAMES if name != "gaussian_noise")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import numpy as np\n" + FIVE + ELSE.replace("def fog(x, severity): pass\n", ""), "lacks fog"),
        ("def gaussian_noise(x, severity): return 0\n" + ELSE, "more than five severities"),
        ("njit = None\n" + FIVE + ELSE, "glass_blur draws by itself"),
        ("import no_such_library\n", "cannot be loaded: ModuleNotFoundError"),
        ("1 +\n", "cannot be loaded: SyntaxError"),
    ],
)
def test_another_version_is_refused_with_what_was_found(tmp_path, monkeypatch, source, told):
    fake_package(tmp_path, source)
    monkeypatch.syspath_prepend(tmp_path)
    reference._loaded.cache_clear()
    try:
        with pytest.raises(PluginError, match=told) as caught:
            package()
        assert "imagecorruptions==1.1.2" in caught.value.hint
    finally:
        reference._loaded.cache_clear()


def test_a_package_that_is_as_it_should_be_is_taken(tmp_path, monkeypatch):
    fake_package(tmp_path, "from pkg_resources import resource_filename\n" + FIVE + ELSE)
    monkeypatch.syspath_prepend(tmp_path)
    reference._loaded.cache_clear()
    try:
        assert package().resource_filename("any", "./frost/frost1.png") == str(
            tmp_path / "imagecorruptions" / "frost" / "frost1.png"
        )
    finally:
        reference._loaded.cache_clear()


@needs_package
@pytest.mark.skipif(not RENDERS.is_dir(), reason="the shared renders are not here")
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_renders_made_elsewhere_are_met(name, severity):
    (clean,) = (path for path in RENDERS.glob("*.png") if "_" not in path.name)
    image = np.asarray(Image.open(clean).convert("RGB"))
    expected = np.asarray(Image.open(clean.with_name(f"{clean.stem}_{name}_{severity}.png")).convert("RGB"))
    difference = np.abs(corrupt_one(name, image, severity, seed=0).astype(int) - expected.astype(int))
    assert difference.mean() < 0.05
