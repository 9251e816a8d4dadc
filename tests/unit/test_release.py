"""`make release`: it refuses what is no release, and builds, checks and tags one, in clones of what is committed."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from scripts import release

PLACES = ("pyproject.toml", "client/pyproject.toml", "deploy/kubernetes/Chart.yaml")


def git(root: Path, *arguments: str) -> None:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """The files as they are now, on main, with a section for the version: all committed."""
    root = tmp_path / "checkout"
    root.mkdir()
    found = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(found, cwd=repository, check=True, capture_output=True, text=True).stdout
    for name in filter(None, told.split("\0")):
        if (repository / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((repository / name).read_bytes())
    version = release.versions(root)["pyproject.toml"]
    if f"\n## [{version}]" not in (root / "CHANGELOG.md").read_text():
        edit(root / "CHANGELOG.md", "\n## [Unreleased]\n", f"\n## [Unreleased]\n\n## [{version}] - 2026-12-01\n")
    git(root, "init", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-m", "all")
    return root


def test_what_is_in_order_may_be_released(checkout: Path) -> None:
    assert release.refusals(checkout) == []


def test_here_all_versions_agree(repository: Path) -> None:
    assert len(set(release.versions(repository).values())) == 1


@pytest.mark.parametrize("place", PLACES)
def test_versions_that_differ_are_refused_by_their_places(checkout: Path, place: str) -> None:
    file = checkout / place
    file.write_text(re.sub(r"(?m)^(version\b.{0,4})0\.\d+\.\d+", r"\g<1>0.99.0", file.read_text(), count=1))
    git(checkout, "commit", "-am", "other")
    reasons = release.refusals(checkout)
    assert "0.99.0" in reasons[0]
    assert place in reasons[0]


def test_without_a_section_in_the_changelog_it_is_refused(checkout: Path) -> None:
    file = checkout / "CHANGELOG.md"
    file.write_text(re.sub(r"(?m)^## \[\d.*$", "## of old", file.read_text()))
    git(checkout, "commit", "-am", "no section")
    (reason,) = release.refusals(checkout)
    assert "CHANGELOG.md has no section" in reason


def test_what_is_not_committed_not_on_main_or_tagged_is_refused(checkout: Path) -> None:
    version = release.versions(checkout)["pyproject.toml"]
    (checkout / "new.txt").write_text("new")
    (reason,) = release.refusals(checkout)
    assert "new.txt" in reason
    (checkout / "new.txt").unlink()
    git(checkout, "switch", "-c", "other")
    git(checkout, "tag", f"v{version}")
    assert release.refusals(checkout) == ["the branch is other, not main", f"v{version} is tagged already"]


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.release", "--root", str(checkout), *arguments]
    return subprocess.run(command, cwd=Path(release.__file__).parents[1], capture_output=True, text=True, check=False)


def tags(checkout: Path) -> list[str]:
    return release.git(checkout, "tag", "--list").split()


def test_a_proof_that_fails_tags_nothing(checkout: Path) -> None:
    found = run(checkout, "--proofs", "false")
    assert found.returncode == 1
    assert "false failed: nothing is tagged" in found.stderr
    assert tags(checkout) == []
    (checkout / "new.txt").write_text("new")
    found = run(checkout, "--proofs", "true")
    assert found.returncode == 1
    assert "not committed" in found.stderr


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_release_is_built_checked_and_tagged_and_nothing_leaves(
    checkout: Path, repository: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "tools", with_pip=True)
    python = tmp_path / "tools" / "bin" / "python"
    install = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q"]
    subprocess.run([python, *install, "-r", repository / "scripts" / "release-tools.txt"], check=True)
    found = run(checkout, "--proofs", "true", "--tools", str(python))
    assert found.returncode == 0, found.stdout + found.stderr
    version = release.versions(checkout)["pyproject.toml"]
    assert tags(checkout) == [f"v{version}"]
    assert f"git push origin main v{version}" in found.stdout
    names = {file.name for file in (checkout / "dist").iterdir()}
    projects = ("ml_service", "ml_service_client")
    wheels = {project: f"{project}-{version}-py3-none-any.whl" for project in projects}
    assert names == {*wheels.values(), *(f"{project}-{version}.tar.gz" for project in projects)}
    service = zipfile.ZipFile(checkout / "dist" / wheels["ml_service"]).namelist()
    assert {"shared/lua/submit.lua", "worker/handler.py", "api/app.py", "local/up.py"} <= set(service)
    assert not [name for name in service if name.startswith(("tests/", "benchmarks/", "ml_service_client/"))]
    assert "ml_service_client/py.typed" in zipfile.ZipFile(checkout / "dist" / wheels["ml_service_client"]).namelist()
    with tarfile.open(checkout / "dist" / f"ml_service-{version}.tar.gz") as source:
        assert f"ml_service-{version}/shared/lua/submit.lua" in source.getnames()
