"""The locks in requirements/ are those of pyproject.toml as it is, and the images install nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts import lock
from tests.containers.test_static import DOCKERFILES, ROOT, values

FILES = {path.stem: path.read_text() for path in (ROOT / "requirements").glob("*.txt")}
PINS = {name: lock.blocks(text) for name, text in FILES.items()}
# Which Dockerfile installs which locks.
INSTALLS = {
    "Dockerfile": {"tools", "torch", "all-in-one"},
    "Dockerfile.api": {"tools", "api", "flower", "providers"},
    "Dockerfile.worker": {"tools", "torch", "worker"},
}


def version(pin: str) -> str:
    found = re.match(r"[a-z0-9.-]+==(\S+)", pin)
    assert found, pin
    return found[1]


def test_there_is_a_lock_for_each_image() -> None:
    assert FILES.keys() == {*lock.IMAGES, "tools", "torch"}


@pytest.mark.parametrize("name", [*lock.IMAGES, "tools"])
def test_a_lock_is_of_what_is_asked_for_now(name: str) -> None:
    assert FILES[name].startswith(lock.header(lock.wanted(name))), "pyproject.toml has changed: make lock"
    pins = PINS["torch"] | PINS[name] if "torch==2.13.0" in lock.wanted(name) else PINS[name]
    for requirement in map(Requirement, lock.wanted(name)):
        pin = pins[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version(pin)), f"{pin} is not {requirement}"


def test_a_change_of_pyproject_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An extra that asks for more, or for a later version."""
    for file in ("pyproject.toml", "client/pyproject.toml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text().replace('"fastapi>=0.132,<1"', '"fastapi>=0.133,<1"'))
    before = lock.header(lock.wanted("api")), lock.header(lock.wanted("flower"))
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    assert lock.header(lock.wanted("api")) != before[0]
    assert lock.header(lock.wanted("flower")) == before[1]


def test_every_pin_has_hashes_and_one_version_everywhere() -> None:
    seen: dict[str, str] = {}
    for name, pins in PINS.items():
        assert len(pins) > 15, name
        for package, pin in pins.items():
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), (name, package)
            assert seen.setdefault(package, version(pin)) == version(pin), (name, package)


def test_no_lock_names_an_index() -> None:
    for text in FILES.values():
        assert not re.search(r"://|^-", text, re.M)


def test_torch_and_cuda_are_in_the_workers_images_alone() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert {f"{name}=={version(PINS['torch'][name])}" for name in ("torch", "torchvision")} <= {
        *re.findall(r'"(torch\S*==[\d.]+)"', project)
    }
    assert any(name.startswith("nvidia-") for name in PINS["torch"])
    for name, pins in PINS.items():
        assert name == "torch" or not [package for package in pins if lock.TORCH.match(package)], name


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_install_what_is_locked(name: str) -> None:
    locked, free = set(), []
    for command in values(name, "RUN"):
        for install in re.findall(r"pip install[^&;]*|set -- [^;]*", command):
            found = re.findall(r"--no-deps --require-hashes -r ([a-z-]+)\.txt", install)
            locked |= {*found}
            free += [] if found else [install]
    assert locked == INSTALLS[name]
    # Torch of an index or folder of your own, and the client's own wheel.
    for install in free:
        assert re.search(r"torch==2\.13\.0|--target /opt/torch|--no-index client/\*\.whl", install), install


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_installs_stays_out_and_what_is_installed_is_listed(name: str) -> None:
    text = (ROOT / name).read_text()
    stages = re.split(r"^FROM ", text, flags=re.M)
    finals = [stage for stage in stages if "\nHEALTHCHECK" in stage]
    assert finals
    for stage in finals:
        assert stage.startswith("base")
        assert not re.search(r"\bpip\b|/opt/tools", stage)
        assert re.search(r"COPY --from=([a-z]+-)?packages /opt/venv /opt/venv", stage)
    packages = [stage for stage in stages if re.match(r"build AS ([a-z]+-)?packages\n", stage)]
    assert len(packages) == len(finals)
    for stage in packages:
        assert "cyclonedx-py environment" in stage
        assert "/opt/venv/sbom.cdx.json" in stage
        assert "pip check" in stage
