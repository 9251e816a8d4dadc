"""Models of models.yaml in this process: loading, warming, and what is known of one then."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from shared.catalog import Ref
from shared.errors import ConfigError
from shared.logs import Event, get_logger
from shared.model_spec import ModelSpec, VersionSpec
from shared.providers import ProviderRate
from shared.settings import Settings
from shared.store import connect
from shared.tasks import Task
from worker.calibrate import Calibration, calibrate
from worker.cpu import CpuShare
from worker.handler import Context
from worker.handler_class import AnyHandler
from worker.inprocess import plain, warm_items, warm_up
from worker.memory import device_bytes, free, host_bytes
from worker.precision import EXACT, Precision, candidates, fastest
from worker.sources import fetch, resolve
from worker.streams import SideBySide, choices, usual
from worker.warm import warm_batches, warm_streams

logger = get_logger("worker")

_FILE_OPTIONS = ("weights", "labels")  # options that are paths, found like a source
_AUTO_COST = {"cpu": 1024, "cuda": 16_384}  # where nothing is calibrated
_MOST_COST = {"cpu": 8192, "cuda": 65_536}  # that a calibration tries


@dataclass(slots=True)
class LoadedModel:
    """One version, ready to run. `streams`: how many of its batches run at a time on a CPU. `max_size` may be lowered
    while it runs (out of memory); `failed_batches` counts those in which every item failed, `halved_batches` how often
    one was cut in two because the memory did not last."""

    ref: Ref
    spec: ModelSpec
    handler: AnyHandler
    task: Task
    device: str
    max_size: int
    max_cost: int
    padded: bool
    max_wait_s: float
    timeout_s: float
    streams: int = 1
    concurrency: int = 0
    retries: int = 0
    load_s: float = 0.0
    warm_s: float = 0.0
    host_bytes: int = 0
    device_bytes: int = 0
    example_output: Any = None
    failed_batches: int = 0
    halved_batches: int = 0
    calibration: Calibration | None = None
    precision: Precision | None = None

    @property
    def size_bytes(self) -> int:
        """Of the memory that counts: the device's."""
        return self.device_bytes if self.device.startswith("cuda") else self.host_bytes

    def card(self) -> dict[str, Any]:
        """What is known of this version once it is loaded; JSON data. The rest is in `handler_card`."""
        return {
            "limits": self.spec.limits.model_dump(mode="json")
            | {"max_batch_size": self.max_size, "max_batch_cost": self.max_cost, "max_wait_s": self.max_wait_s}
            | ({"concurrency": self.concurrency} if self.concurrency else {})
            | ({"streams": self.streams} if self.streams > 1 else {}),
            "failed_batches": self.failed_batches,
            "memory": {"host_bytes": self.host_bytes, "device_bytes": self.device_bytes},
            "timing": {"load_s": round(self.load_s, 3), "warm_s": round(self.warm_s, 3)},
            **({"calibration": self.calibration.card()} if self.calibration else {}),
            **({"precision": self.precision.card()} if self.precision else {}),
        }


def handler_card(kind: AnyHandler | type[AnyHandler]) -> dict[str, Any]:
    """What is known of a version by its class, or by more once it is loaded; JSON data."""
    example = next(iter(kind.example), None)
    return {
        "task": kind.io.name,
        "input_schema": kind.io.input_schema(),
        "output_schema": kind.io.output_schema(),
        "parameters_schema": kind.io.parameters.model_json_schema(),
        "example": example.model_dump(mode="json", exclude_none=True) if isinstance(example, BaseModel) else example,
    }


def load_model(
    ref: Ref,
    spec: ModelSpec,
    version: VersionSpec,
    kind: type[AnyHandler],
    *,
    device: str,
    settings: Settings,
    share: CpuShare | None = None,
) -> LoadedModel:
    """Load and warm one version, in the precision that suits it where its `dtype` is auto: its examples run alone, as
    one batch, in batches of several sizes where `max_cost` is to be found, and up to the largest before it counts as
    ready. `share`: this process's. Raises ConfigError, HandlerContract or whatever the handler's own `load` and
    `predict` raise."""
    if version.dtype == "auto":

        def load(dtype: str) -> LoadedModel:
            exact = version.model_copy(update={"dtype": dtype})
            return load_model(ref, spec, exact, kind, device=device, settings=settings, share=share)

        if not kind.uses_torch or not _may_try(spec, settings):
            return load(EXACT)
        model = fastest(load, candidates(device))
        logger.info(Event.MODEL_CALIBRATED, model=str(ref), **model.precision.card() if model.precision else {})
        return model
    handler = kind()
    share = share or CpuShare(settings.torch_threads, settings.lock_dir)
    _prepare_torch(handler, share)
    context = _context(ref, spec, version, device, settings)
    free()  # neither what others have left nor what its warming leaves is the model's
    host, on_device, begun = host_bytes(), device_bytes(device), time.monotonic()
    _load(handler, context)
    loaded = time.monotonic()
    try:
        warmed = _warmed(ref, spec, handler, device=device, settings=settings, share=share)
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            handler.unload()
        raise
    warm_s = time.monotonic() - loaded
    free()
    return LoadedModel(
        ref=ref,
        spec=spec,
        handler=handler,
        task=handler.io,
        device=device,
        max_size=warmed.max_size,
        max_cost=warmed.max_cost,
        padded=handler.padded,
        max_wait_s=spec.batch.max_wait_ms / 1000,
        timeout_s=spec.limits.timeout_s,
        streams=warmed.streams,
        concurrency=handler.concurrency,
        retries=handler.retries,
        load_s=loaded - begun,
        warm_s=warm_s,
        host_bytes=max(0, host_bytes() - host),
        device_bytes=max(0, device_bytes(device) - on_device),
        example_output=plain(warmed.outputs[0]) if warmed.outputs else None,
        calibration=warmed.calibration,
    )


def _context(ref: Ref, spec: ModelSpec, version: VersionSpec, device: str, settings: Settings) -> Context:
    return Context(
        model=ref.model,
        version=ref.version,
        source=fetch(spec, version, settings),
        device=device,
        dtype=version.dtype,
        quantize=version.quantize,
        compile=version.compile,
        revision=version.revision,
        trust_remote_code=version.trust_remote_code,
        options=_options(version, settings),
        cache_dir=settings.model_cache_dir,
        on_overlong=spec.limits.on_overlong,
        max_batch_size=spec.batch.max_size,
        timeout_s=spec.limits.timeout_s,
        allowance=_allowance(version, settings),
    )


def _load(handler: AnyHandler, context: Context) -> None:
    try:
        handler.load(context)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ConfigError(
            f"{context.source} brings code of its own, which is not run; `trust_remote_code: true` of its version would"
        ) from error


@dataclass(slots=True)
class _Warmed:
    """What came of running a model's examples; `outputs` are the examples'."""

    outputs: list[Any]
    max_size: int
    max_cost: int
    streams: int
    calibration: Calibration | None


def _warmed(
    ref: Ref, spec: ModelSpec, handler: AnyHandler, *, device: str, settings: Settings, share: CpuShare
) -> _Warmed:
    outputs = warm_up(handler)
    max_size, max_cost = min(spec.batch.max_size, handler.max_size or spec.batch.max_size), _max_cost(spec, device)
    threads = share.apply() if handler.side_by_side and device == "cpu" else 1
    calibration = _calibrated(
        ref, spec, handler, device, settings, max_size=max_size, usual_cost=max_cost, share=share, threads=threads
    )
    streams = usual(threads)
    if calibration:
        max_cost, streams = calibration.budget, calibration.streams
    if handler.uses_torch:
        max_size = warm_batches(handler, warm_items(handler), max_size=max_size, max_cost=max_cost)
        if max_size < spec.batch.max_size:
            logger.warning(Event.BATCH_HALVED, model=str(ref), max_size=max_size, step="warm")
        beside = SideBySide(share.apply)
        streams = warm_streams(
            handler, warm_items(handler), streams, max_size=max_size, max_cost=max_cost, beside=beside
        )
    return _Warmed(outputs, max_size, max_cost, streams, calibration)


def _allowance(version: VersionSpec, settings: Settings) -> Any:
    rate = version.provider_options().rate if version.provider else None
    if rate is None or rate == ProviderRate():
        return None
    from worker.providers.allowance import Allowance

    options = version.provider_options()
    account = (version.source, options.base_url or "", options.api_key_env, options.region or "")
    return Allowance(connect(settings), account, rate)


def _prepare_torch(handler: AnyHandler, share: CpuShare) -> None:
    """Before anything of torchvision or transformers is imported."""
    if not handler.uses_torch:
        return
    for name in ("torchao", "torch.utils._pytree"):
        # What torchao says when transformers imports it: kernels for other machines, and advice to its own authors.
        logging.getLogger(name).setLevel(logging.ERROR)
    from worker.compat import install_torchvision_ops

    importlib.import_module("torch")
    install_torchvision_ops()
    share.apply()
    if importlib.util.find_spec("transformers"):
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]  # it would draw into the log


def _options(version: VersionSpec, settings: Settings) -> dict[str, Any]:
    options = version.options
    paths = {name: resolve(str(options[name]), settings) for name in _FILE_OPTIONS if options.get(name)}
    return options | paths


def _calibrated(
    ref: Ref,
    spec: ModelSpec,
    handler: AnyHandler,
    device: str,
    settings: Settings,
    *,
    max_size: int,
    usual_cost: int,
    share: CpuShare,
    threads: int,
) -> Calibration | None:
    """None where there is nothing to find: the file says it, the model runs elsewhere, or somebody waits for it.
    `threads`: what its streams may divide."""
    wanted = spec.batch.max_cost == "auto" and _may_try(spec, settings)
    if not wanted or not handler.uses_torch or handler.concurrency:
        return None
    torch = sys.modules["torch"]
    on_gpu = device.startswith("cuda")
    found = calibrate(
        handler,
        warm_items(handler),
        max_size=max_size,
        most_cost=max(_MOST_COST["cuda" if on_gpu else "cpu"], max_size),
        usual=usual_cost,
        limit_s=settings.calibrate_s,
        streams=choices(threads),
        usual_streams=usual(threads),
        part=share.apply,
        settle=torch.cuda.synchronize if on_gpu else lambda: None,
    )
    if found:
        logger.info(Event.MODEL_CALIBRATED, model=str(ref), **found.card())
    return found


def _may_try(spec: ModelSpec, settings: Settings) -> bool:
    """A trial at load: nobody waits for the model, and it is not forbidden."""
    return settings.calibrate_s > 0 and spec.load == "preload"


def _max_cost(spec: ModelSpec, device: str) -> int:
    if spec.batch.max_cost != "auto":
        return spec.batch.max_cost
    # Where an item costs 1 this must not cut below max_size.
    return max(_AUTO_COST["cuda" if device.startswith("cuda") else "cpu"], spec.batch.max_size)
