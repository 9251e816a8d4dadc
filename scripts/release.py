"""`make release`: what a maintainer runs on main, when the version and CHANGELOG.md are as they are to be.

    python -m scripts.release [--check]

Refuses, with every reason, where the release would not be what it says; then runs the proofs (.ci/run), builds the
service and the client from what is committed into dist/, checks them, and tags. It pushes and uploads nothing: the
commands that do are printed.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TOOLS = Path(".venv-release") / "bin" / "python"  # has what release-tools.txt names
PROOFS = ".ci/run"
PROJECTS = (".", "client")
BRANCH = "main"


def versions(root: Path) -> dict[str, str]:
    """By where it stands."""
    chart = yaml.safe_load((root / "deploy/kubernetes/Chart.yaml").read_text())
    files = [Path(folder) / "pyproject.toml" for folder in PROJECTS]
    return {
        **{str(file): tomllib.loads((root / file).read_text())["project"]["version"] for file in files},
        "deploy/kubernetes/Chart.yaml version": str(chart["version"]),
        "deploy/kubernetes/Chart.yaml appVersion": str(chart["appVersion"]),
    }


def refusals(root: Path) -> list[str]:
    """Why this checkout is no release; empty: it is one."""
    found = versions(root)
    version = found["pyproject.toml"]
    reasons = []
    if len(set(found.values())) > 1:
        reasons.append(f"the versions differ: {', '.join(f'{place}: {told}' for place, told in found.items())}")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (root / "CHANGELOG.md").read_text(), re.M):
        reasons.append(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`")
    if (branch := git(root, "branch", "--show-current")) != BRANCH:
        reasons.append(f"the branch is {branch or 'none'}, not {BRANCH}")
    if changed := git(root, "status", "--porcelain"):
        reasons.append(f"not committed:\n{changed}")
    if git(root, "tag", "--list", f"v{version}"):
        reasons.append(f"v{version} is tagged already")
    return reasons


def build(root: Path, python: Path, dist: Path) -> list[Path]:
    """An sdist and a wheel of each project, from what is committed, checked as an index would."""
    if dist.exists():
        shutil.rmtree(dist)
    with tempfile.TemporaryDirectory(prefix="ml-release-") as folder:
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tree:
            tree.extractall(folder, filter="data")
        for project in PROJECTS:
            run([python, "-m", "build", "--outdir", dist, Path(folder) / project])
    made = sorted(dist.iterdir())
    run([python, "-m", "twine", "check", "--strict", *made])
    return made


def git(root: Path, *arguments: str) -> str:
    """What it says."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def run(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    """Raises SystemExit where it fails."""
    words = [str(word) for word in command]
    print(f"release: {' '.join(words)}", flush=True)
    if subprocess.run(words, cwd=cwd, check=False).returncode:
        sys.exit(f"release: {' '.join(words)} failed: nothing is tagged")


def what_is_left(version: str, made: Sequence[Path]) -> str:
    """The commands that publish, for a maintainer to look at and run."""
    client = " ".join(str(file) for file in made if file.name.startswith("ml_service_client-"))
    return f"""Nothing has left this machine. What publishes it:

    git push origin {BRANCH} v{version}
    {TOOLS} -m twine upload {client}
    docker build -f Dockerfile.api -t REGISTRY/ml-service-api:{version} . && docker push REGISTRY/ml-service-api:{version}
    docker build -f Dockerfile.worker -t REGISTRY/ml-service-worker:{version} . && docker push REGISTRY/ml-service-worker:{version}
    scripts/helm.sh package deploy/kubernetes && scripts/helm.sh push ml-service-{version}.tgz oci://REGISTRY/charts

(The service itself is no package for an index: its modules' names are too general. Its files are for a release's page.)
To undo: git tag -d v{version}"""  # noqa: E501 - commands in one line each


def main() -> int:
    """0: tagged, or ready to be (`--check`); 1: refused."""
    options = _parse()
    root: Path = options.root
    if reasons := refusals(root):
        print("\n".join(f"release: {reason}" for reason in reasons), file=sys.stderr)
        return 1
    version = versions(root)["pyproject.toml"]
    if options.check:
        print(f"release: {version} may be released")
        return 0
    run([options.proofs], root)
    made = build(root, options.tools.absolute(), root / "dist")
    if changed := git(root, "status", "--porcelain"):  # the proofs may have written
        sys.exit(f"release: not committed:\n{changed}\nnothing is tagged")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"ml-service {version}")
    print(f"release: tagged v{version}; in dist/: {', '.join(file.name for file in made)}\n")
    print(what_is_left(version, [file.relative_to(root) for file in made]))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.release", description="Make a release; publish nothing.")
    parser.add_argument("--check", action="store_true", help="only look whether it would be refused")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    parser.add_argument("--tools", type=Path, default=ROOT / TOOLS, help="a Python that has release-tools.txt")
    parser.add_argument("--proofs", default=PROOFS, help="a command that must pass")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
