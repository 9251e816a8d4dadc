"""Which models there are, and which version a request means. models.yaml says it first; from then on the registry."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shared.errors import ConfigError, UnknownModel
from shared.fallback import FallbackSpec, unfit
from shared.model_spec import CelerySpec, ModelsFile, ModelSpec, VersionSpec

_SHOWN = 128  # characters of a caller's name in an error: as many as a name may have


@dataclass(frozen=True, slots=True)
class Ref:
    """One version of one model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class _Known:
    models: dict[str, ModelSpec]
    others: tuple[tuple[Ref, ModelSpec], ...]
    etag: str


class Catalog:
    """Names to versions. Any thread; what it says changes as a whole (`become`)."""

    def __init__(
        self, models: dict[str, ModelSpec], *, others: Iterable[tuple[Ref, ModelSpec]] = (), etag: str = ""
    ) -> None:
        """`models` can be asked for; `others` are versions that come, or go and still have jobs. `etag`: of the
        registry that says so."""
        self._known = _Known(models, tuple(others), etag)

    @property
    def models(self) -> dict[str, ModelSpec]:
        """By name, in the order of the file."""
        return self._known.models

    @property
    def etag(self) -> str:
        """Of the registry that says so; empty before there is one."""
        return self._known.etag

    def become(self, other: Catalog) -> None:
        """From now on say what `other` says."""
        self._known = other._known

    def resolve(self, name: str, version: str | None = None, *, sticky: str | None = None) -> Ref:
        """`model`, `model@version` or `model@alias` (or `version` beside the name) to one version. Without a pin the
        traffic weights decide: by the hash of `sticky`, so one key always meets the same version. Raises
        UnknownModel, whose text names what there is."""
        model, at, pin = name.partition("@")
        pin = version or pin
        spec = self.spec(model)
        if pin or at:
            pin = spec.aliases.get(pin, pin)
            if pin not in spec.versions:
                raise UnknownModel(
                    f"model {model!r} has no version {pin[:_SHOWN]!r}; it has {', '.join(spec.versions)}"
                )
            return Ref(model, pin)
        weights = spec.weights()
        point = _point(model, sticky) * sum(weights.values())
        for candidate, weight in weights.items():
            if point < weight:
                return Ref(model, candidate)
            point -= weight
        return Ref(model, next(reversed(weights)))

    def spec(self, model: str) -> ModelSpec:
        """Raises UnknownModel."""
        try:
            return self.models[model]
        except KeyError:
            if any(ref.model == model for ref, _ in self._known.others):
                raise UnknownModel(f"model {model!r} is not served: workers are loading it, or it is going") from None
            known = ", ".join(sorted(self.models)) or "none"
            raise UnknownModel(f"no model {model[:_SHOWN]!r} is configured; there are: {known}") from None

    def fallback(self, model: str) -> FallbackSpec | None:
        """What the model's jobs may go to; None where it names nothing, or what is not there now or does something
        else."""
        models = self.models
        return models[model].fallback if model in models and not unfit(model, models) else None

    def celery_task(self, name: str) -> tuple[str, CelerySpec] | None:
        """The model that a backend's Celery task of this name is for."""
        for model, spec in self.models.items():
            if spec.celery is not None and name in spec.celery.names:
                return model, spec.celery
        return None

    def celery_queues(self) -> set[str]:
        """Where backends' Celery tasks come in."""
        return {spec.celery.queue for spec in self.models.values() if spec.celery is not None}

    def refs(self) -> Iterator[tuple[Ref, ModelSpec, VersionSpec]]:
        """Every version, in the order of the file, then those that come or go."""
        known = self._known
        for name, spec in known.models.items():
            for version, version_spec in spec.versions.items():
                yield Ref(name, version), spec, version_spec
        for ref, spec in known.others:
            yield ref, spec, spec.versions[ref.version]


def _point(model: str, sticky: str | None) -> float:
    """0 <= x < 1: the same for the same key, even over all keys; at random without one."""
    if sticky is None:
        return random.random()
    digest = hashlib.sha256(f"{model}\n{sticky}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


ALL_LOCAL, ALL_PROVIDERS = "@local", "@providers"


def takes(selection: Iterable[str], model: str, version: VersionSpec) -> bool:
    """Whether a worker with this ML_MODELS takes this version: by the model's name, or as one of those that a managed
    provider runs (`@providers`), or not (`@local`)."""
    chosen = set(selection)
    kind = ALL_PROVIDERS if version.provider else ALL_LOCAL
    return not chosen or model in chosen or kind in chosen


def load_catalog(path: Path) -> Catalog:
    """Read and validate models.yaml. Raises ConfigError that names line and field."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        data = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except (ValueError, RecursionError) as error:  # a month 13, a byte that is no UTF-8, a thousand brackets
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    try:
        return Catalog(ModelsFile.model_validate(data).models)
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False, include_input=False):
            loc = tuple(part for part in fault["loc"] if part not in ("[key]", "constrained-str"))
            lines.append(f"{path}, line {_line(node, loc)}: {'.'.join(map(str, loc))}: {fault['msg']}")
        raise ConfigError("\n".join(lines)) from None


def _line(node: yaml.Node | None, path: tuple[Any, ...]) -> int:
    """The line of the deepest part of `path` that exists."""
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
