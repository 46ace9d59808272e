"""A built wheel, and fresh environments that borrow this one's dependencies but not its vit-harness."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class FreshEnvironment:
    """A virtual environment without network: dependencies come from the environment that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        scripts = "Scripts" if os.name == "nt" else "bin"
        self.bin = folder / scripts
        self.python = self.bin / "python"
        site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").stdout.strip())
        # A plain path entry: unlike a site folder it brings no editable installs with it.
        (site / "borrowed.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
        self.home = folder / "home"
        self.home.mkdir()

    def run(
        self, *arguments: str, command: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run python (or a command of the environment) outside the checkout; the caller looks at the result."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"HARNESS_CACHE_DIR": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        program = str(self.python if command is None else self.bin / command)
        return subprocess.run(
            [program, *arguments], cwd=cwd or self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def install(self, *what: str) -> None:
        """Install wheels or folders with pip, without asking an index."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                f"--python={self.python}",
                "install",
                "--quiet",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--disable-pip-version-check",
                *what,
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or sdist of ``source`` with the installed backend."""
    done = subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """A fresh environment with the wheel in it."""
    environment = FreshEnvironment(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install(str(wheel))
    return environment


@pytest.fixture
def bare(tmp_path: Path) -> FreshEnvironment:
    """One more, empty, for a test that installs something else into it."""
    return FreshEnvironment(tmp_path / "venv")
