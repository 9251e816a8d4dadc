"""Writes requirements/*.txt, what each image installs: `make lock`. Runs in .venv-lock, which has uv.

    python scripts/lock.py                      for what pyproject.toml asks now; versions stay where they may
    python scripts/lock.py --upgrade            the newest versions that it allows; or --upgrade-package NAME

Each file begins with what was asked for, holds for all machines and Pythons from 3.11 on, has the hashes of PyPI's
files, and is whole: pip installs it with --no-deps. Torch and its CUDA libraries stand in a file of their own, since a
build for the CPU is not PyPI's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import NamedTemporaryFile

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
# Which extras an image has; `client:` those of the client.
IMAGES = {
    "api": ["api", "payloads", "otel"],
    "flower": ["flower"],
    "providers": ["providers", "payloads", "otel"],
    "worker": ["worker", "models", "s3", "onnx", "providers", "otel"],
    "all-in-one": ["worker", "models", "s3", "onnx", "providers", "otel", "local", "client:cli"],
}
TORCH = re.compile(r"(torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*)$")
# What builds an image and is not in it.
TOOLS = ["pip>=26", "setuptools>=75", "cyclonedx-bom>=7,<8"]
OPTIONS = """pip compile - --quiet --universal --python-version 3.11 --fork-strategy fewest --only-binary :all:
    --no-header --no-emit-index-url --no-emit-find-links"""


def extra(project: dict[str, dict[str, list[str]]], name: str) -> list[str]:
    """What an extra asks for, with the extras that it names in turn."""
    found = []
    for requirement in project["optional-dependencies"][name]:
        ours = re.fullmatch(r"ml-service\[(.*)\]", requirement)
        found += [one for inner in ours[1].split(",") for one in extra(project, inner)] if ours else [requirement]
    return found


def wanted(image: str) -> list[str]:
    """The requirements of an image, as they stand in pyproject.toml and the client's; of `tools`, ours."""
    if image == "tools":
        return TOOLS
    found = []
    projects = {
        "": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"],
        "client": tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"],
    }
    for name in ["", *IMAGES[image]]:
        whose, _, what = name.rpartition(":")
        project = projects[whose]
        if not name or whose:
            found += project["dependencies"]
        found += extra(project, what) if what else []
    return sorted(set(found))


def blocks(lock: str) -> dict[str, str]:
    """The parts of a lock by package: its pin, its hashes, and who asks for it."""
    parts = re.split(r"^(?=[a-z0-9])", lock, flags=re.M)[1:]
    found = {re.split(r"[=\[ ]", part)[0]: part for part in parts}
    if len(found) != len(parts):
        raise ValueError("a package has two versions in one lock, for different machines or Pythons")
    return found


def compiled(requirements: list[str], pins: str, *arguments: str) -> str:
    """A lock, with the versions of `pins` where nothing forbids it."""
    uv = Path(sys.executable).parent / "uv"
    with NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins)
        file.flush()
        command = [str(uv), *OPTIONS.split(), "--output-file", file.name, *arguments]
        text = "\n".join(requirements)
        subprocess.run(command, input=text, check=True, stdout=subprocess.DEVNULL, text=True)  # noqa: S603 - uv's
        return Path(file.name).read_text()


def header(requirements: list[str]) -> str:
    """How a lock begins: by it a test tells that pyproject.toml has changed since."""
    return "# Written by `make lock`, of:\n" + "".join(f"#   {one}\n" for one in requirements)


def main() -> None:
    """Writes all of them; arguments go to uv."""
    locked = [part for path in FOLDER.glob("*.txt") for part in blocks(path.read_text()).values()]
    pins = "\n".join(sorted({part.partition(" \\")[0] for part in locked}))
    everything = [requirement for image in [*IMAGES, "tools"] for requirement in wanted(image)]
    pins = compiled(everything, pins, *sys.argv[1:])  # so that a package has one version in all images
    torch: dict[str, str] = {}
    for image in [*IMAGES, "tools"]:
        found = blocks(compiled(wanted(image), pins, "--generate-hashes"))
        torch |= {name: part for name, part in found.items() if TORCH.match(name)}
        rest = [part for name, part in found.items() if name not in torch]
        (FOLDER / f"{image}.txt").write_text(header(wanted(image)) + "".join(rest))
    asked = [one for one in wanted("worker") if TORCH.match(one.partition("==")[0])]
    (FOLDER / "torch.txt").write_text(header(asked) + "".join(torch.values()))


if __name__ == "__main__":
    main()
