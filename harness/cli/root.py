"""The root of the command: its subcommands by name, and errors as sentences with exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from harness.errors import HarnessError

_COMMANDS = {
    "run": ("harness.cli.run:run", "Run a grid of models x perturbations x probes."),
    "compare": ("harness.cli.compare:compare", "Compare models of one or several runs, with tests."),
    "shape-bias": ("harness.cli.shape_bias:shape_bias", "Measure the shape bias of published or own decisions."),
    "list": ("harness.cli.list:list_command", "List models, perturbations, probes, datasets or suites."),
    "show": ("harness.cli.show:show", "Describe one component: parameters, levels, source."),
    "plugins": ("harness.cli.plugins:plugins", "List plugins, and what is wrong with broken ones."),
    "check": ("harness.cli.check:check", "Check that a component keeps its contract."),
    "registry": ("harness.cli.registry:registry", "Work with registry files (presets and suites)."),
    "fetch": ("harness.cli.fetch:fetch", "Download pretrained weights for offline use."),
    "doctor": ("harness.cli.doctor:doctor", "Report versions, devices, hub and optional dependencies."),
    "cache": ("harness.cli.cache:cache", "Show or clear cached features and digests."),
}
_ALIASES = {"ls": "list"}

INTERRUPTED = 130


class _Group(click.Group):
    """Subcommands that are imported only when they run, so that ``--help`` and ``list`` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        entry = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from harness.naming import did_you_mean

            hint = did_you_mean(name, [*_COMMANDS, *_ALIASES])
            ctx.fail(f"no command {name!r}." + (f" {hint[0].upper()}{hint[1:]}" if hint else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HARNESS"})
@click.version_option(package_name="vit-harness", prog_name="harness")
def cli() -> None:
    """Measure how vision backbones behave under occlusion, shuffling, corruption and attack, and how well their
    features transfer.

    \b
      harness list models                                       what there is
      harness run -m resnet50 -p patchdrop_random --probe top1 --data PHOTOS
                                                                an occlusion curve
      harness run -s demo --weights random                      a small study without a network

    Results go to stdout (JSON with --json), progress and notes to stderr. Exit codes: 0 all cells have their record,
    1 some cell failed, 2 usage or configuration, 3 a plugin is broken or missing, 4 weights or data are not to be
    had, 130 interrupted.
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code. A person's mistake never shows a traceback."""
    try:
        code: Any = cli.main(args=args, prog_name="harness", standalone_mode=False)
    except HarnessError as error:
        fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click turns the one into the other
        print("interrupted; what was written so far is kept, run the same command to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) has gone: that is no error of ours, and there is nobody left to tell.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def fail(error: HarnessError) -> NoReturn:
    """Say what is wrong and what to do, and end with the error's exit code."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
