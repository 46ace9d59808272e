"""What ``harness show`` draws of a probe: a run over a few images, and the exhibit that comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import CapabilityError, DataError, HarnessError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.catalog import Catalog
    from harness.cli.sheets import SheetOptions
    from harness.grammar import Selector

_MOST_IMAGES = 64


def probe_drawing(
    catalog: Catalog, selector: Selector, found: Mapping[str, Any], options: SheetOptions
) -> Callable[[Callable[[], Path]], list[Path]] | str:
    """What runs the probe on the images asked for, asks for a file and writes the pictures there, or what is lacking.

    Raises :class:`UsageError` for options that contradict each other or have no effect, and what resolving names
    raises.
    """
    from harness.components import probe_component

    name, of_model = selector.qualified_name, found["facts"]["of_model"]
    if found["facts"]["exhibit"] is None:
        return f"{name} has numbers to show, and no picture"
    probe_component(catalog, selector.text)
    if of_model and (alone := _given(options, "--image", "--dataset", "--mask", "--perturb", "--seed", "--view")):
        raise UsageError(
            f"{' and '.join(alone)} can have no effect: {name} measures the model itself", hint="give --model alone"
        )
    _check_options(options)
    lacking = [] if options.model is not None else ["--model NAME"]
    if not of_model and not options.image_files and options.dataset is None:
        lacking.append("--image FILE, or --dataset NAME --index N")
    if lacking:
        return f"give {' and '.join(lacking)}"
    return lambda place: _drawn(catalog, selector, options, place, of_model=of_model)


def _given(options: SheetOptions, *names: str) -> list[str]:
    return [name for name in options.given if name in names]


def _check_options(options: SheetOptions) -> None:
    if options.image_files and options.dataset is not None:
        raise UsageError(
            "--image and --dataset were both given", hint="a picture is of image files, or of images of a dataset"
        )
    if options.dataset is None and (alone := _given(options, "--index", "--split", "--data")):
        raise UsageError(
            f"{' and '.join(alone)} can have no effect without --dataset", hint="name one, such as --dataset shapes"
        )
    if not options.image_files and _given(options, "--mask"):
        raise UsageError("--mask can have no effect without --image", hint="give the image that it is the mask of")
    if options.model is None and (alone := _given(options, "--weights", "--allow-missing")):
        raise UsageError(f"{' and '.join(alone)} can have no effect without --model", hint="name the model")
    if len(options.image_files) > _MOST_IMAGES:
        raise UsageError(f"--image was given {len(options.image_files)} times; {_MOST_IMAGES} are shown at most")
    for path in (*options.image_files, *options.mask_files):
        if not path.is_file():
            problem = "this is a folder" if path.is_dir() else "there is no such file"
            raise DataError(f"{path}: {problem}", hint="--image and --mask name one file each; repeat them for others")


def _drawn(
    catalog: Catalog, selector: Selector, options: SheetOptions, place: Callable[[], Path], *, of_model: bool
) -> list[Path]:
    """Run the probe, and write its first picture to the file that ``place`` names and the others beside it."""
    import tempfile
    from pathlib import Path as Folder

    with tempfile.TemporaryDirectory(prefix="harness-show-") as folder:
        pictures = _pictures(catalog, selector, options, Folder(folder), of_model=of_model)
        first = place()
        made = [first, *(first.with_name(f"{first.stem}-{n}{first.suffix}") for n in range(2, len(pictures) + 1))]
        for picture, path in zip(pictures, made, strict=True):
            path.write_bytes(picture.read_bytes())
    return made


def _pictures(
    catalog: Catalog, selector: Selector, options: SheetOptions, folder: Path, *, of_model: bool
) -> tuple[Path, ...]:
    from harness.api import Workbench, run_asked
    from harness.options import RunOptions
    from harness.progress import default_progress
    from harness.request import Asked
    from harness.weights import parse_weights

    asked = Asked(
        models=(options.model,),
        probes=(selector.text,),
        perturbations=options.perturbations or ("none",),
        datasets=() if of_model else (_images(catalog, options),),
        weights=parse_weights(options.weights or "pretrained", allow_missing=options.allow_missing),
        view=options.view,
        seeds=(options.seed or 0,),
    )
    bench = Workbench(manager=catalog.manager, catalog=catalog)
    result = run_asked(bench, asked, out=folder, options=RunOptions(device="auto"), progress=default_progress())
    for failure in result.failures:
        if failure.trace is not None:
            raise RuntimeError(failure.trace)
        raise CapabilityError(failure.message)
    for exhibit in result.exhibits:
        if exhibit.problem is not None:
            raise HarnessError(f"{exhibit.probe} cannot be drawn: {exhibit.problem}")
    pictures = tuple(picture for exhibit in result.exhibits for picture in exhibit.pictures)
    if not pictures:
        raise HarnessError(f"{selector.qualified_name} shows no picture of this")
    return pictures


def _images(catalog: Catalog, options: SheetOptions) -> object:
    from harness.cli.sheets import places
    from harness.cli.shown_images import ChosenImages, ImageFiles

    if options.dataset is None:
        return ImageFiles(options.image_files, options.mask_files)
    from harness.components import dataset_component

    component = dataset_component(catalog, options.dataset, None if options.data is None else str(options.data))
    return ChosenImages(component.dataset, options.split, places(options.index or "0", most=_MOST_IMAGES))
