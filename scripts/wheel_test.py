"""The client as its users get it: built as a wheel, installed where there is nothing else, tested on a live service.

    python -m scripts.wheel_test

The environment is made with the oldest Python that the client supports, if one is here (or with $WHEEL_PYTHON). It has
httpx, and what httpx brings; the wheel is then installed without an index: anything more that it needs is a fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.embedded import EmbeddedServer
from tests.processes import api, worker

ROOT = Path(__file__).parents[1]
OLDEST = "3.10"
# The test of a model that needs torch is the everyday suite's.
LEFT_OUT = ("test_bert.py",)


def say(text: str) -> None:
    """What is under way."""
    print(f"wheel-test: {text}", flush=True)  # noqa: T201 - a program with a report


def run(*command: str | Path, **env: str) -> str:
    """Raises SystemExit with what the command said, if it fails."""
    found = subprocess.run(  # noqa: S603 - our own commands
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env=os.environ | env,
    )
    if found.returncode:
        sys.exit(f"wheel-test: {' '.join(map(str, command))} failed:\n{found.stdout}{found.stderr}")
    return found.stdout


def interpreter() -> str:
    """The oldest supported Python that runs here, else this one."""
    wanted = [os.environ.get("WHEEL_PYTHON"), shutil.which(f"python{OLDEST}")]
    if shutil.which("pyenv"):
        found = subprocess.run(["pyenv", "prefix", OLDEST], check=False, capture_output=True, text=True)  # noqa: S603, S607 - found on PATH
        wanted.append(f"{found.stdout.strip()}/bin/python" if found.returncode == 0 else None)
    for one in filter(None, wanted):
        code = "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))"
        if subprocess.run([one, "-c", code], check=False, capture_output=True).returncode == 0:  # noqa: S603 - a Python found on PATH
            return one
    return sys.executable


def build(folder: Path) -> Path:
    """The wheel, with its types and without its tests."""
    source = folder / "source"  # a build leaves things behind
    shutil.copytree(ROOT / "client", source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("ml_service_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    strange = [name for name in names if not name.startswith(("ml_service_client/", "ml_service_client-"))]
    if "ml_service_client/py.typed" not in names or strange:
        sys.exit(f"wheel-test: the wheel has no py.typed, or too much: {strange}")
    return wheel


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """One worker and one API; the URL."""
    models = ROOT / "client" / "tests" / "models.yaml"
    with (
        EmbeddedServer(folder / "redis") as server,
        worker(server.url, models),
        api(server.url, models, ML_OUTBOUND_ALLOW="127.0.0.0/8") as url,
    ):
        yield url


def main() -> None:
    """Exits with 1 and what is wrong, else with 0."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        say(f"building, and making an environment with {interpreter()}")
        wheel = build(folder)
        if interpreter() == sys.executable:
            venv.create(folder / "venv", with_pip=True)
        else:
            run(interpreter(), "-m", "venv", folder / "venv")
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet")
        run(*pip, "httpx>=0.28,<1")
        run(*pip, "--no-index", wheel)
        smoke = "import ml_service_client as c; print(c.__version__, c.__file__, c.QueueFull.code)"
        say(run(python, "-I", "-W", "error", "-c", smoke).strip())
        run(*pip, "pytest", "standardwebhooks", f"{wheel}[cli]")
        if "submit" not in (told := run(python.parent / "ml-service", "--help")) and "apply" not in told:
            sys.exit(f"wheel-test: the command does not run:\n{told}")
        tests = folder / "tests"
        shutil.copytree(ROOT / "client" / "tests", tests, ignore=shutil.ignore_patterns("__pycache__", *LEFT_OUT))
        with service(folder) as url:
            say(f"testing on {url}")
            command = (python, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
            say(run(*command, ML_CLIENT_TEST_URL=url, PYTHONPATH="").strip().splitlines()[-1])
    say(f"all is well, after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
