"""The registry: which models there are to be, in one document in Redis. Here is what it says and how it changes; pure.

models.yaml is its seed; `PUT` and `DELETE` under /v1/models change it (shared/registry_store.py writes it). Workers
make what it asks for (worker/preload.py, worker/shelf.py). A change while workers live is a rollout: callers get what
they got before (`serving`; nothing of a `new` model) until workers have what they are to get (`spec`). Then the traffic
switches, at one moment for all API processes, and the versions that nobody can ask for any more are retiring: they end
what was accepted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, model_validator

from shared.catalog import Catalog, Ref
from shared.errors import NothingToRollBack, UnknownModel, VersionExists, VersionInUse
from shared.model_spec import ModelName, ModelSpec, VersionSpec

_MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version that workers are to have, and the spec it is run with. `coming`: callers get it when workers have it;
    `going`: it is on its way out."""

    spec: ModelSpec
    coming: bool = False
    going: bool = False


class Entry(BaseModel):
    """One model. `spec`: as it is to be; `serving`: what callers get while workers do not have that (None: they get
    `spec`, or nothing of it while it is `new`); `previous`: what they got before the last change."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    spec: ModelSpec
    serving: ModelSpec | None = None
    new: bool = False
    previous: ModelSpec | None = None

    @property
    def now(self) -> ModelSpec | None:
        """What callers get; None: nothing yet."""
        return None if self.new else self.serving or self.spec

    @property
    def rolling(self) -> bool:
        """Whether callers are to get something else than they do."""
        return self.new or self.serving is not None

    def coming(self) -> list[str]:
        """The versions that workers must load before callers can get `spec`."""
        now = {} if self.now is None else {version: self.now.build(version) for version in self.now.versions}
        return [version for version in self.spec.versions if self.spec.build(version) != now.get(version)]


class Registry(BaseModel):
    """`etag` names this very state: no other has the same. `retiring`: by ref, what it is run with. `files`: digests of
    the models files that have been taken in, the last one last."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    generation: int = 0
    etag: str = ""
    models: dict[ModelName, Entry] = {}
    retiring: dict[str, ModelSpec] = {}
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Registry:
        for ref, spec in self.retiring.items():
            if ref_of(ref).version not in spec.versions:
                raise ValueError(f"retiring {ref[:128]!r} is no version of its spec")
        return self

    def catalog(self) -> Catalog:
        """What callers can ask for, and which versions there are beside."""
        others = [
            (Ref(name, version), entry.spec)
            for name, entry in self.models.items()
            for version in entry.coming()
            if not (entry.now and version in entry.now.versions) and str(Ref(name, version)) not in self.retiring
        ]
        others += [(ref_of(name), spec) for name, spec in self.retiring.items()]
        return Catalog(self._now(), others=others, etag=self.etag)

    def wanted(self) -> dict[Ref, Wanted]:
        """Every version that workers are to have."""
        found = self._going()
        for name, entry in self.models.items():
            coming = entry.coming()
            if entry.now is not None:
                for version in entry.now.versions:
                    found[Ref(name, version)] = Wanted(entry.now, going=version not in entry.spec.versions)
            for version in entry.spec.versions:
                found[Ref(name, version)] = Wanted(entry.spec, coming=version in coming)
        return found

    def served(self) -> dict[Ref, Wanted]:
        """What callers get now: what a new worker loads first."""
        return self._going() | {ref: Wanted(spec) for ref, spec, _ in Catalog(self._now()).refs()}

    def _now(self) -> dict[str, ModelSpec]:
        return {name: entry.now for name, entry in self.models.items() if entry.now is not None}

    def _going(self) -> dict[Ref, Wanted]:
        return {ref_of(name): Wanted(spec, going=True) for name, spec in self.retiring.items()}

    def entry(self, model: str) -> Entry:
        """Raises UnknownModel."""
        if model not in self.models:
            raise UnknownModel(
                f"no model {model!r} is configured; there are: {', '.join(sorted(self.models)) or 'none'}"
            )
        return self.models[model]

    def stamped(self) -> Registry:
        """As the next generation."""
        generation = self.generation + 1
        return self.model_copy(update={"generation": generation, "etag": f"{generation}-{secrets.token_hex(4)}"})

    # The changes: each gives the registry after it, or this very one where there is nothing to change. ---------------

    def with_models(self, specs: Mapping[str, ModelSpec], *, exact: bool = False, outright: bool = False) -> Registry:
        """`exact`: and no others. `outright`: nothing is served that could be kept meanwhile, so callers get them at
        once, and a version may be another than it was. Raises VersionExists."""
        changed = self
        for name, spec in specs.items():
            changed = changed._with(name, spec, outright=outright)
        if exact:
            for name in [name for name in changed.models if name not in specs]:
                changed = changed.without(name)
            if list(changed.models) != list(specs):
                changed = changed.model_copy(update={"models": {name: changed.models[name] for name in specs}})
        return changed

    def without(self, model: str) -> Registry:
        """Nobody can ask for it any more. Raises UnknownModel."""
        now = self.entry(model).now
        rest = {name: entry for name, entry in self.models.items() if name != model}
        changed = self.model_copy(update={"models": rest})
        return changed if now is None else changed._retire(model, now, now.versions)

    def with_version(self, model: str, version: str, spec: VersionSpec, *, replace: bool = False) -> Registry:
        """The traffic stays where it is; with `replace` all of it goes to the new version, and those that had it go.
        Raises UnknownModel, VersionExists."""
        old = self.entry(model).spec
        if replace:
            versions = {name: kept for name, kept in old.versions.items() if not old.weights().get(name)}
            aliases = {alias: name if name in versions else version for alias, name in old.aliases.items()}
            change = {"versions": versions | {version: spec}, "traffic": {version: 1.0}, "aliases": aliases}
        else:
            change = {"versions": old.versions | {version: spec}, "traffic": old.weights()}
        return self._with(model, _checked(old, change))

    def without_version(self, model: str, version: str) -> Registry:
        """Raises UnknownModel, and VersionInUse where traffic or an alias still goes to it."""
        old = self.entry(model).spec
        if version not in old.versions:
            raise UnknownModel(f"model {model!r} has no version {version!r}; it has {', '.join(old.versions)}")
        if old.weights().get(version) or len(old.versions) == 1:
            raise VersionInUse(f"{model}@{version} has traffic: move that to another version first")
        if version in old.aliases.values():
            raise VersionInUse(f"an alias names {model}@{version}: move that to another version first")
        versions = {name: spec for name, spec in old.versions.items() if name != version}
        traffic = {name: weight for name, weight in old.weights().items() if name != version}
        return self._with(model, _checked(old, {"versions": versions, "traffic": traffic}))

    def with_traffic(self, model: str, traffic: Mapping[str, float]) -> Registry:
        """Raises UnknownModel, and ValidationError for weights that are none."""
        old = self.entry(model).spec
        return self._with(model, _checked(old, {"traffic": dict(traffic)}))

    def rolled_back(self, model: str) -> Registry:
        """A rollout under way is called off (a new model goes); else callers get what they got before the last change,
        as soon as workers have it. Twice is back again. Raises UnknownModel, NothingToRollBack."""
        entry = self.entry(model)
        if entry.new:
            return self.without(model)
        if entry.serving is not None:
            return self._put(model, entry.model_copy(update={"spec": entry.serving, "serving": None}))
        if entry.previous is None:
            raise NothingToRollBack(f"{model} has not been changed")
        return self._with(model, entry.previous)

    def switched(self, model: str) -> Registry:
        """Workers have what callers are to get: they get it."""
        entry = self.entry(model)
        if entry.serving is None:
            return self._put(model, Entry(spec=entry.spec)) if entry.new else self
        previous = entry.previous if _same(entry.spec, entry.serving) else entry.serving
        done = Entry(spec=entry.spec, previous=previous)
        gone = [version for version in entry.serving.versions if version not in entry.spec.versions]
        return self._put(model, done)._retire(model, entry.serving, gone)

    def retired(self, refs: Iterable[str]) -> Registry:
        """The jobs of these versions have ended."""
        rest = {ref: spec for ref, spec in self.retiring.items() if ref not in set(refs)}
        return self if rest == self.retiring else self.model_copy(update={"retiring": rest})

    def knowing(self, file: str) -> Registry:
        """The models file of this digest has been taken in."""
        others = [known for known in self.files if known != file]
        return self.model_copy(update={"files": (*others, file)[-_MOST_FILES:]})

    def _with(self, model: str, spec: ModelSpec, *, outright: bool = False) -> Registry:
        old = self.models.get(model)
        if old is not None and _same(old.spec, spec) and not (outright and old.rolling):
            return self
        if not outright:
            self._refuse_other_contents(model, spec)
        if old is None or old.now is None:
            return self._put(model, Entry(spec=spec, new=not outright))
        rollout = self._put(model, Entry(spec=spec, serving=old.now, previous=old.previous))
        return rollout.switched(model) if outright or not rollout.models[model].coming() else rollout

    def _put(self, model: str, entry: Entry) -> Registry:
        retiring = {
            ref: spec for ref, spec in self.retiring.items() if not (entry.now and _is_of(ref, model, entry.now))
        }
        return self.model_copy(update={"models": self.models | {model: entry}, "retiring": retiring})

    def _retire(self, model: str, spec: ModelSpec, versions: Iterable[str]) -> Registry:
        """They are loaded when their last jobs need them, if they are not loaded any more."""
        lazy = spec.model_copy(update={"load": "lazy"})
        going = {str(Ref(model, version)): lazy.only(version) for version in versions}
        return self.model_copy(update={"retiring": self.retiring | going})

    def _refuse_other_contents(self, model: str, spec: ModelSpec) -> None:
        entry = self.models.get(model)
        known = [entry.now] if entry and entry.now else []
        known += [old for ref, old in self.retiring.items() if ref_of(ref).model == model]
        for old in known:
            for version, contents in old.versions.items():
                if spec.versions.get(version, contents) != contents:
                    raise VersionExists(
                        f"{model}@{version} is there already, with other contents: a version never changes, so give "
                        "the new one a name of its own"
                    )


def ref_of(name: str) -> Ref:
    """The opposite of `str(ref)`."""
    model, _, version = name.rpartition("@")
    return Ref(model, version)


def _is_of(ref: str, model: str, spec: ModelSpec) -> bool:
    found = ref_of(ref)
    return found.model == model and found.version in spec.versions


def _same(one: ModelSpec, other: ModelSpec) -> bool:
    """Also in the order of the versions: the newest is the last."""
    return one.model_dump_json() == other.model_dump_json()


def _checked(spec: ModelSpec, change: Mapping[str, object]) -> ModelSpec:
    """Raises ValidationError."""
    return ModelSpec.model_validate({**dict(spec), **change})
