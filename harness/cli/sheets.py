"""The contact sheet that ``harness show`` draws of a dataset: its options, what it lacks, and where it goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from harness.errors import UsageError
from harness.types import View

if TYPE_CHECKING:
    from harness.catalog import Catalog, Resolved
    from harness.cli.options import F
    from harness.grammar import Selector
    from harness.protocols import Dataset

_OPTIONS = (
    click.option(
        "--sheet",
        "sheet_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Draw a dataset's contact sheet into this .png instead of the cache folder.",
    ),
    click.option("--no-sheet", is_flag=True, help="Draw no contact sheet of a dataset."),
    click.option(
        "--data", type=click.Path(path_type=Path), metavar="DIR", help="Where the dataset lies, for its contact sheet."
    ),
    click.option(
        "--view",
        metavar="ipvit|imagenet_c|SPEC",
        help="How the sheet's images become pixels; resize=112,crop=112,interpolation=bicubic if not given.",
    ),
    click.option("--images", type=click.IntRange(1, 100), metavar="N", help="Images of each split; 12 if not given."),
)


def sheet_options(command: F) -> F:
    """``--sheet``, ``--no-sheet``, ``--data``, ``--view`` and ``--images``: the fields of :class:`SheetOptions`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetOptions:
    """What was said about the contact sheet; None where nothing was."""

    sheet_file: Path | None
    no_sheet: bool
    data: Path | None
    view: str | None
    images: int | None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are typed."""
        values = {
            "--sheet": self.sheet_file,
            "--no-sheet": self.no_sheet or None,
            "--data": self.data,
            "--view": self.view,
            "--images": self.images,
        }
        return tuple(name for name, value in values.items() if value is not None)


def plan_sheet(
    catalog: Catalog, selector: Selector, found: Mapping[str, Any], options: SheetOptions, *, as_json: bool
) -> Callable[[], str] | None:
    """What draws the sheet and says where it lies, or says what is lacking to draw it; None where none is wanted.

    ``found`` is the description of what ``selector`` names. For machines a sheet is drawn only into a file that they
    name. Nothing heavy is imported before the call. Raises :class:`UsageError` for options that contradict each other
    or have no effect, for a file that cannot be one, and for a named file where something is lacking; and
    :class:`~harness.errors.ParameterError` for parameters or a view that cannot be.
    """
    wanted = not options.no_sheet and (options.sheet_file is not None or not as_json)
    _check_effect(selector, found, options, wanted=wanted)
    if found["kind"] != "dataset" or not wanted:
        return None
    view = None if options.view is None else _view(options.view)
    if options.sheet_file is not None:
        _check_file(options.sheet_file)
    if (lacking := _lacking(selector, found, options.data)) is not None:
        if options.sheet_file is not None:
            raise UsageError(f"no contact sheet of dataset {selector.qualified_name} can be drawn yet", hint=lacking)
        return lambda: lacking
    from harness.components import resolve_dataset

    resolved = resolve_dataset(catalog, selector.text, None if options.data is None else str(options.data))
    place = "" if options.data is None else f" in {options.data}"
    return lambda: str(_draw(catalog, resolved, selector.text + place, _file_name(selector), options, view))


def _check_effect(selector: Selector, found: Mapping[str, Any], options: SheetOptions, *, wanted: bool) -> None:
    name, given = selector.qualified_name, options.given
    is_dataset = found["kind"] == "dataset"
    if given and not is_dataset:
        raise UsageError(
            f"{name} is a {found['kind']}; {' and '.join(given)} can be given for datasets only",
            hint=f"harness show {found['kind']} {name}",
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
    if selector.params and not (is_dataset and wanted):
        raise UsageError(
            f"show takes a name without parameters and levels, not {selector.text!r}"
            + (": parameters are for a contact sheet, and none is drawn" if is_dataset else ""),
            hint=f"harness show {name}",
        )


def _view(text: str) -> View:
    if text == "model":
        raise UsageError("--view model: a contact sheet has no model", hint="harness show MODEL prints a model's view")
    return View.parse(text)


def _check_file(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UsageError(f"--sheet {path}: a contact sheet is a PNG picture", hint="let the file's name end in .png")
    if path.is_dir():
        raise UsageError(f"--sheet {path}: this is a folder", hint="name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--sheet {path}: there is no folder {path.parent}", hint="make it first")


def _lacking(selector: Selector, found: Mapping[str, Any], data: Path | None) -> str | None:
    """What must be installed or given before the dataset can be opened, as something to do."""
    if found["extra_missing"]:
        return f"pip install 'vit-harness[{found['extra_missing']}]' brings what it needs"
    given = {*selector.params, *(() if data is None else ("root",))}
    missing = [
        row["name"]
        for row in found["parameters"]
        if row["required"] and "preset" not in row and row["name"] not in given
    ]
    if not missing:
        return None
    values = ",".join(f"{name}=VALUE" for name in missing if name != "root")
    needs = [f"{selector.qualified_name}:{values}"] if values else []
    return f"give {' and '.join([*needs, *(['--data DIR'] if 'root' in missing else [])])}"


def _file_name(selector: Selector) -> str:
    """Its text, without what file systems and shells read otherwise."""
    return f"{re.sub(r'[^a-z0-9_.=+-]+', '_', selector.text, flags=re.IGNORECASE)[:120]}.png"


def _draw(
    catalog: Catalog, resolved: Resolved, title: str, file_name: str, options: SheetOptions, view: View | None
) -> Path:
    from harness.paths import ensure_cache_dir
    from harness.report.dataset_sheets import DEFAULT_IMAGES, DEFAULT_VIEW, dataset_sheet
    from harness.report.sheets import save_sheet

    dataset = cast("Dataset", catalog.instantiate(resolved))
    sheet = dataset_sheet(dataset, name=title, view=view or DEFAULT_VIEW, images=options.images or DEFAULT_IMAGES)
    path = options.sheet_file or ensure_cache_dir("sheets") / file_name
    save_sheet(sheet, path)
    return path
