"""The contact sheet that ``harness show`` draws of a dataset or a perturbation: its options, and where it goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from harness.errors import UsageError
from harness.types import View

if TYPE_CHECKING:
    from PIL import Image

    from harness.catalog import Catalog
    from harness.cli.options import F
    from harness.grammar import Selector
    from harness.protocols import Dataset

_OPTIONS = (
    click.option(
        "--sheet",
        "sheet_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw the contact sheet into this .png instead of the cache folder.",
    ),
    click.option("--no-sheet", is_flag=True, help="Draw no contact sheet."),
    click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies."),
    click.option(
        "--view",
        metavar="ipvit|imagenet_c|SPEC",
        help="How the sheet's images become pixels; resize=112,crop=112,interpolation=bicubic if not given. For a "
        "perturbation it is then the view of --model, else of the model whose map it goes by, resized to fit, else "
        "resize=224,crop=224,interpolation=bicubic.",
    ),
    click.option(
        "--images", type=click.IntRange(1, 100), metavar="N", help="A dataset's images of each split; 12 if not given."
    ),
    click.option(
        "--image",
        "image_files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Show what the perturbation does to this image, or the probe finds in it (repeatable).",
    ),
    click.option(
        "--mask",
        "mask_files",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where the object of an --image is, not black (once for each); for probes that ask about objects.",
    ),
    click.option("-d", "--dataset", metavar="NAME[:key=value]", help="Show this of images of a dataset."),
    click.option("--index", metavar="N[,N...]", help="Places of those images in their split; 0 if not given."),
    click.option("--split", metavar="NAME", help="Their split; the dataset's own choice if not given."),
    click.option(
        "-m",
        "--model",
        metavar="NAME[:key=value]",
        help="The evaluated model, for probes, and for perturbations that are relative to it or attack it.",
    ),
    click.option(
        "-p",
        "--perturb",
        "perturbations",
        multiple=True,
        metavar="NAME[@LEVELS]",
        help="Perturb the images that the probe is asked about (repeatable; none keeps the clean ones among them).",
    ),
    click.option(
        "--weights", metavar="pretrained|random|PATH", help="Weights of --model; pretrained ones if not given."
    ),
    click.option(
        "--allow-missing",
        multiple=True,
        metavar="PATTERN",
        help="Names of weights that need not be in both the file of --weights and --model (repeatable).",
    ),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the perturbation; 0 if not given."),
)

_DATASET, _PERTURBATION, _PROBE = "dataset", "perturbation", "probe"
_MADE_FOR: Mapping[str, tuple[str, ...]] = {
    "--sheet": (_DATASET, _PERTURBATION, _PROBE),
    "--no-sheet": (_DATASET, _PERTURBATION, _PROBE),
    "--data": (_DATASET, _PERTURBATION, _PROBE),
    "--view": (_DATASET, _PERTURBATION, _PROBE),
    "--images": (_DATASET,),
    "--image": (_PERTURBATION, _PROBE),
    "--mask": (_PROBE,),
    "--dataset": (_PERTURBATION, _PROBE),
    "--index": (_PERTURBATION, _PROBE),
    "--split": (_PERTURBATION, _PROBE),
    "--model": (_PERTURBATION, _PROBE),
    "--weights": (_PERTURBATION, _PROBE),
    "--allow-missing": (_PERTURBATION, _PROBE),
    "--perturb": (_PROBE,),
    "--seed": (_PERTURBATION, _PROBE),
}
"""The kinds of which an option has something to say."""

_DRAWN = (_DATASET, _PERTURBATION, _PROBE)


def sheet_options(command: F) -> F:
    """``--sheet`` and all that says what is on it: the fields of :class:`SheetOptions`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetOptions:
    """What was said about the contact sheet; None or empty where nothing was."""

    sheet_file: Path | None
    no_sheet: bool
    data: Path | None
    view: str | None
    images: int | None
    image_files: tuple[Path, ...]
    mask_files: tuple[Path, ...]
    dataset: str | None
    index: str | None
    split: str | None
    model: str | None
    weights: str | None
    allow_missing: tuple[str, ...]
    perturbations: tuple[str, ...]
    seed: int | None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are typed."""
        values = {
            "--sheet": self.sheet_file,
            "--no-sheet": self.no_sheet or None,
            "--data": self.data,
            "--view": self.view,
            "--images": self.images,
            "--image": self.image_files or None,
            "--mask": self.mask_files or None,
            "--dataset": self.dataset,
            "--index": self.index,
            "--split": self.split,
            "--model": self.model,
            "--weights": self.weights,
            "--allow-missing": self.allow_missing or None,
            "--perturb": self.perturbations or None,
            "--seed": self.seed,
        }
        return tuple(name for name, value in values.items() if value is not None)


def plan_sheet(
    catalog: Catalog, selector: Selector, found: Mapping[str, Any], options: SheetOptions, *, as_json: bool
) -> Callable[[], str] | None:
    """What draws the sheet and says where it lies, or says what is lacking to draw it; None where none is wanted.

    ``found`` is the description of what ``selector`` names. For machines a sheet is drawn only into a file that they
    name. Nothing heavy is imported before the call. Raises :class:`UsageError` for options that contradict each other
    or have no effect, for a file that cannot be one, and for a named file where something is lacking; and
    :class:`~harness.errors.ParameterError` for parameters, levels or a view that cannot be.
    """
    wanted = not options.no_sheet and (options.sheet_file is not None or not as_json)
    _check_effect(selector, found, options, wanted=wanted)
    if found["kind"] not in _DRAWN or not wanted:
        return None
    if found["kind"] == _PROBE and found["facts"]["exhibit"] is None and not options.given:
        return None
    if options.sheet_file is not None:
        _check_file(options.sheet_file)
    drawing = _drawing(catalog, selector, found, options)
    if not isinstance(drawing, str):
        return lambda: " ".join(map(str, drawing(lambda: _place(selector, options))))
    if options.sheet_file is not None:
        raise UsageError(f"no contact sheet of {found['kind']} {selector.qualified_name} can be drawn", hint=drawing)
    return lambda: drawing


def _check_effect(selector: Selector, found: Mapping[str, Any], options: SheetOptions, *, wanted: bool) -> None:
    name, kind, given = selector.qualified_name, found["kind"], options.given
    if foreign := [option for option in given if kind not in _MADE_FOR[option]]:
        kinds = dict.fromkeys(f"{made_for}s" for option in foreign for made_for in _MADE_FOR[option])
        raise UsageError(
            f"{name} is a {kind}; {' and '.join(foreign)} can be given for {' and '.join(kinds)} only",
            hint=f"harness show {kind} {name}",
        )
    if options.no_sheet and len(given) > 1:
        others = [option for option in given if option != "--no-sheet"]
        raise UsageError(f"{' and '.join(others)} can have no effect beside --no-sheet", hint="leave out one of them")
    if given and not wanted and not options.no_sheet:
        raise UsageError(
            f"{' and '.join(given)} can have no effect: with --json a contact sheet is drawn only where its file is "
            "named",
            hint="name it with --sheet FILE",
        )
    drawn = kind in _DRAWN and (kind != _PROBE or found["facts"]["exhibit"] is not None)
    if (selector.params and not (drawn and wanted) and kind != "model") or (
        selector.levels is not None and not (kind == _PERTURBATION and wanted)
    ):
        raise UsageError(
            f"show takes a name without parameters and levels, not {selector.text!r}"
            + (": they are for a contact sheet, and none is drawn" if drawn and not wanted else ""),
            hint=f"harness show {name}",
        )


def _check_file(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UsageError(f"--sheet {path}: a contact sheet is a PNG picture", hint="let the file's name end in .png")
    if path.is_dir():
        raise UsageError(f"--sheet {path}: this is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--sheet {path}: there is no folder {path.parent}", hint="make it first")


def _drawing(
    catalog: Catalog, selector: Selector, found: Mapping[str, Any], options: SheetOptions
) -> Callable[[Callable[[], Path]], Sequence[Path]] | str:
    """What draws the picture, asks for its file and writes it, maybe others beside it; or what must be done first."""
    view = _view(options)
    if (lacking := _lacking(selector, found, options.data)) is not None:
        return lacking
    if found["kind"] == _PROBE:
        from harness.cli.probe_sheets import probe_drawing

        return probe_drawing(catalog, selector, found, options)
    if found["kind"] == _DATASET:
        return _saving(_dataset_drawing(catalog, selector, view, options))
    from harness.cli.perturbation_sheets import perturbation_drawing

    drawing = perturbation_drawing(catalog, selector, found, view, options)
    return drawing if isinstance(drawing, str) else _saving(drawing)


def _saving(draw: Callable[[], Image.Image]) -> Callable[[Callable[[], Path]], Sequence[Path]]:
    def save(place: Callable[[], Path]) -> Sequence[Path]:
        from harness.report.sheets import save_sheet

        sheet, path = draw(), place()
        save_sheet(sheet, path)
        return (path,)

    return save


def _view(options: SheetOptions) -> View | None:
    if options.view == "model" and options.model is None:
        raise UsageError("--view model: a contact sheet has no model", hint="harness show MODEL prints a model's view")
    # That of the model is known only once the model has been looked up.
    return None if options.view in (None, "model") else View.parse(options.view)


def _lacking(selector: Selector, found: Mapping[str, Any], data: Path | None) -> str | None:
    """What must be installed or given before the component can be built, as something to do."""
    if found["extra_missing"]:
        return f"pip install 'vit-harness[{found['extra_missing']}]' brings what it needs"
    place = "root" if found["kind"] == _DATASET else None
    given = {*selector.params, *(() if data is None else (place,))}
    missing = [
        row["name"] for row in found["params"] if row["required"] and "preset" not in row and row["name"] not in given
    ]
    if not missing:
        return None
    values = ",".join(f"{name}=VALUE" for name in missing if name != place)
    needs = [f"{selector.qualified_name}:{values}"] if values else []
    return f"give {' and '.join([*needs, *(['--data DIR'] if place in missing else [])])}"


def _dataset_drawing(
    catalog: Catalog, selector: Selector, view: View | None, options: SheetOptions
) -> Callable[[], Image.Image]:
    from harness.components import resolve_dataset

    resolved = resolve_dataset(catalog, selector.text, None if options.data is None else str(options.data))
    title = selector.text + ("" if options.data is None else f" in {options.data}")

    def draw() -> Image.Image:
        from harness.report.dataset_sheets import DEFAULT_IMAGES, DEFAULT_VIEW, dataset_sheet

        dataset = cast("Dataset", catalog.instantiate(resolved))
        return dataset_sheet(dataset, name=title, view=view or DEFAULT_VIEW, images=options.images or DEFAULT_IMAGES)

    return draw


def _place(selector: Selector, options: SheetOptions) -> Path:
    from harness.paths import ensure_cache_dir

    return options.sheet_file or ensure_cache_dir("sheets") / _file_name(selector, options)


def _file_name(selector: Selector, options: SheetOptions) -> str:
    """Whose sheet it is and of which images, without what file systems and shells read otherwise."""
    parts = [selector.text, *(path.stem for path in options.image_files)]
    parts += filter(None, (options.model, options.dataset, options.split, options.index))
    parts += options.perturbations
    return f"{re.sub(r'[^a-z0-9_.=+-]+', '_', '_'.join(parts), flags=re.IGNORECASE)[:120]}.png"


def places(text: str, *, most: int) -> tuple[int, ...]:
    """Places counted from 0, as in ``3`` or ``3,7,12`` or ``0-11``. Raises :class:`UsageError` for anything else."""
    found: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--index takes places counted from 0, such as 3 or 3,7,12 or 0-11, not {text!r}")
        found += range(int(first), int(last or first) + 1)
    positions = tuple(dict.fromkeys(found))
    if not 0 < len(positions) <= most:
        raise UsageError(f"--index names {len(positions)} images; a sheet has room for {most}")
    return positions
