"""Entries of a wrapped library: reached with their plugin's name before theirs, and in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.catalog import Catalog, build_catalog
from harness.entries import PerturbationEntry
from harness.errors import RegistryError
from harness.hookspecs import hookimpl
from harness.manager import build_manager


def plugin(*entries: PerturbationEntry) -> object:
    class Plugin:
        @hookimpl
        def harness_register_perturbations(self):
            return entries

    return Plugin()


def entry(name: str, summary: str, **given: object) -> PerturbationEntry:
    return PerturbationEntry(name=name, target="harness.clean:Clean", summary=summary, **given)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    presets = tmp_path / "mine.yaml"
    presets.write_text("perturbations:\n  glide_fast: {use: glide}\n  glide_theirs: {use: 'library:glide'}\n")
    manager = build_manager(
        discover=False,
        extra=[
            ("own", plugin(entry("glide", "ours"))),
            ("library", plugin(*(entry(name, "theirs", qualified=True) for name in ("glide", "aglide")))),
        ],
        strict=True,
    )
    return build_catalog(manager, registry_files=[presets])


def test_a_bare_name_means_the_entry_that_is_not_qualified(catalog: Catalog) -> None:
    resolved = catalog.resolve("perturbation", "glide")
    assert (resolved.entry.summary, resolved.ref.name, resolved.ref.use) == ("ours", "glide", "glide")


@pytest.mark.parametrize("text", ["library:glide", "library:GLIDE"])
def test_the_plugins_name_reaches_the_other_in_any_spelling(catalog: Catalog, text: str) -> None:
    resolved = catalog.resolve("perturbation", text)
    assert (resolved.entry.summary, resolved.ref.name, resolved.ref.use) == ("theirs", "library:glide", "library:glide")


def test_a_name_without_its_plugin_is_unknown_and_the_hint_gives_it(catalog: Catalog) -> None:
    with pytest.raises(RegistryError, match="no perturbation named 'aglide'") as caught:
        catalog.resolve("perturbation", "aglide")
    assert "library:aglide" in str(caught.value.hint)


def test_lists_and_globs_show_the_name_as_it_must_be_typed(catalog: Catalog) -> None:
    assert {"library:aglide", "library:glide", "glide", "glide_fast", "glide_theirs"} <= set(
        catalog.names("perturbation")
    )
    assert "aglide" not in catalog.names("perturbation")
    assert [found.text for found in catalog.expand("perturbation", ["glide*"])] == [
        "glide",
        "glide_fast",
        "glide_theirs",
    ]
    assert [found.text for found in catalog.expand("perturbation", ["library:*"])] == [
        "library:aglide",
        "library:glide",
    ]


def test_presets_choose_as_people_do(catalog: Catalog) -> None:
    assert catalog.resolve("perturbation", "glide_fast").entry.summary == "ours"
    assert catalog.resolve("perturbation", "glide_theirs").entry.summary == "theirs"


def test_what_is_shown_of_it_is_its_own(catalog: Catalog) -> None:
    assert catalog.describe("perturbation", "library:aglide")["name"] == "library:aglide"
