"""Progress: a bar on a terminal, plain notes in a log, nothing where it should be quiet; all on stderr."""

from __future__ import annotations

import io
import sys

from engine_doubles.models import TinyModel
from engine_doubles.perturbations import BreaksAt
from engine_doubles.probes import CentroidProbe

from harness.progress import BarProgress, NoProgress, TextProgress, default_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(monkeypatch) -> Terminal:
    # Not a fixture: pytest puts its own capture back between the set-up and the test.
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_who_gets_what(monkeypatch, capsys):
    assert type(default_progress()) is TextProgress
    assert type(default_progress(quiet=True)) is NoProgress
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(default_progress()) is BarProgress
    assert type(default_progress(quiet=True)) is NoProgress


def drive(progress):
    progress.begin("tiny on tints", 20)
    progress.advance(5)
    progress.note("out of memory: [going] on")
    progress.advance(15)
    progress.end()
    progress.end()
    progress.advance(3)
    progress.note("done")


def test_a_log_gets_the_notes_and_nothing_else(capsys):
    drive(TextProgress())
    found = capsys.readouterr()
    assert found.err == "out of memory: [going] on\ndone\n"
    assert found.out == ""


def test_quiet_is_quiet(capsys):
    drive(NoProgress())
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch, capsys):
    terminal = on_terminal(monkeypatch)
    drive(BarProgress())
    text = terminal.getvalue()
    assert "tiny on tints" in text
    assert "20/20" in text or "5/20" in text
    assert "out of memory: [going] on" in text
    assert capsys.readouterr().out == ""


def test_a_new_stretch_replaces_the_bar_before_it(monkeypatch):
    terminal = on_terminal(monkeypatch)
    progress = BarProgress()
    progress.begin("first", 10)
    progress.begin("second", 10)
    progress.end()
    assert "second" in terminal.getvalue()


class Logged(NoProgress):
    """What the engine reports, stretch by stretch."""

    def __init__(self):
        self.stretches = []
        self.notes = []
        self.open = False

    def begin(self, description, total):
        assert not self.open
        self.open = True
        self.stretches.append([description, total, 0])

    def advance(self, units):
        assert self.open
        self.stretches[-1][2] += units

    def note(self, text):
        self.notes.append(text)

    def end(self):
        self.open = False


def test_the_engine_reports_every_forward_of_an_image(run, dataset):
    progress = Logged()
    run(
        model=TinyModel(),
        dataset=dataset,
        probe=[CentroidProbe(), "agreement"],
        perturb=["none", "dimmed", "speckled"],
        seeds=(0, 1),
        progress=progress,
    )
    support, walk = progress.stretches
    assert support == ["tiny: support features", 6, 6]
    assert walk == ["tiny on tints (16 cells)", 33 * 7, 33 * 7]
    assert not progress.open
    assert progress.notes[0] == "tiny: loading (embedded weights)"


def test_the_bar_is_closed_when_things_go_wrong(run, dataset):
    progress = Logged()
    run(model=TinyModel(memory_images=3), dataset=dataset, probe="pixels", perturb=BreaksAt(0.0), progress=progress)
    assert not progress.open
    assert any("out of memory: going on with batches of" in note for note in progress.notes)
