"""The root: help of every command, exit codes of every kind of error, streams, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from harness.cli import root
from harness.cli.root import cli
from harness.errors import (
    CapabilityError,
    DataError,
    HarnessError,
    MissingDependencyError,
    ParameterError,
    PluginError,
    RecordsError,
    RegistryError,
    UsageError,
    WeightsError,
)

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "sklearn",
    "faiss",
    "pandas",
    "pyarrow",
    "matplotlib",
    "rich",
)


def commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None, name
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": inner for sub, inner in command.commands.items()}
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_mentions_every_option_and_fits_the_screen(harness, name):
    answer = harness(*name.split(), "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert max(map(len, answer.out.splitlines())) <= 100
    flat = " ".join(answer.out.split())
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert max(parameter.opts, key=len) in flat
            assert parameter.help, f"{name} {parameter.opts}"
            # Long words may be broken between lines, at their hyphens.
            assert "".join(parameter.help.split()[:3]) in flat.replace(" ", ""), parameter.help
    assert COMMANDS[name].help


@pytest.mark.parametrize("name", [name for name in COMMANDS if not isinstance(COMMANDS[name], click.Group)])
def test_help_gives_an_example_that_begins_with_the_command(harness, name):
    assert f"  harness {name}" in harness(*name.split(), "-h").out


def test_root_help_lists_every_command_with_its_summary(harness):
    answer = harness("--help")
    for name, (_, summary) in root._COMMANDS.items():
        assert f"{name} " in answer.out
        assert summary in " ".join(answer.out.split())


def test_root_table_agrees_with_the_commands():
    for name, command in COMMANDS.items():
        assert command.name == name.split()[-1]


def test_version(harness):
    from importlib.metadata import version

    assert version("vit-harness") in harness("--version").out


def test_unknown_command_suggests(harness):
    answer = harness("lits")
    assert answer.code == 2
    assert "list" in answer.err
    assert answer.out == ""


def test_unknown_option_is_a_usage_error(harness):
    assert harness("list", "--jsn").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HarnessError("x"), 2),
        (UsageError("x"), 2),
        (RegistryError("x"), 2),
        (ParameterError("x"), 2),
        (CapabilityError("x"), 2),
        (RecordsError("x"), 2),
        (PluginError("x"), 3),
        (MissingDependencyError("x", extra="attacks"), 3),
        (WeightsError("x"), 4),
        (DataError("x"), 4),
        (click.exceptions.Abort(), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_end_with_their_exit_code_and_no_traceback(harness, monkeypatch, error, code):
    def raising(*_, **__):
        raise error

    monkeypatch.setattr("harness.manager.build_manager", raising)
    answer = harness("list")
    assert answer.code == code
    assert answer.out == ""
    assert "Traceback" not in answer.err


def test_programming_errors_keep_their_traceback(monkeypatch):
    def raising(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("harness.manager.build_manager", raising)
    with pytest.raises(ZeroDivisionError):
        root.main(["list"])


def test_unknown_model_is_two_with_a_suggestion(harness, tmp_path):
    answer = harness("run", "--model", "vit_b61", "--dry-run", "--out", str(tmp_path))
    assert answer.code == 2
    assert "did you mean vit_b16" in answer.err


def test_name_of_a_broken_plugin_is_three(harness, install, tmp_path):
    install(
        "broken",
        """
        @hookimpl
        def harness_register_probes():
            yield ProbeEntry(name="lost_probe", target="broken.code:Probe", summary="s")
            raise RuntimeError("half way")
        """,
    )
    answer = harness("run", "--probe", "lost_probe", "--dry-run", "--out", str(tmp_path))
    assert answer.code == 3
    assert "broken-dist 1.5" in answer.err
    assert "half way" in answer.err


def test_missing_weights_are_four(harness):
    assert harness("fetch", "resnet18").code == 4


SCRIPT = """
import json, sys
from harness.cli import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["list", "--json"],
        ["show", "suite", "mini"],
        ["show", "plugin", "timm_vit"],
        ["show", "patchdrop_random", "--json"],
        ["show", "dataset", "folder"],
        ["show", "digits", "--no-sheet"],
        ["show", "digits", "--json"],
        ["plugins"],
        ["registry", "validate"],
    ],
    ids=" ".join,
)
def test_looking_things_up_imports_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert not modules & set(HEAVY)
    assert "harness.cli.root" in modules


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -c 'from harness.cli import main; main()' list --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.stdout == "["
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
