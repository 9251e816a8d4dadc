"""Run one batch through a handler and give each unit its own fate. A runner's thread."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.logs import Event, get_logger
from worker.contract import honest, wrong_count
from worker.handler import DeviceLost, ItemError, Listener, TryLater

if TYPE_CHECKING:
    from worker.models import LoadedModel

logger = get_logger("worker")

Listen = Callable[[int, int], Listener]  # to what is told of batch[start:stop], whose positions begin at 0


def predict(
    model: LoadedModel, batch: list[Any], names: Sequence[Mapping[str, str]] = (), listen: Listen | None = None
) -> list[Any]:
    """One output for each of `batch` (`names`: whose each is, for the log; `listen`: who hears what is told of part of
    them), an ItemError where it failed, a TryLater where it is to be run again. Never raises for a fault of the input:
    a batch that raises is halved until the culprits are alone; out of memory halves it too and lowers the model's
    `max_size` for this process. A wrong number of outputs fails the whole batch (`handler_contract`). Raises
    DeviceLost: then none of `batch` has an output."""
    try:
        with model.handler.heard(listen and listen(0, len(batch))):
            return _checked(model, batch, model.handler.predict(batch), names)
    except TryLater as later:
        return [honest(later)] * len(batch)
    except Exception as error:
        if isinstance(error, ItemError) and error.code != "invalid_input" and model.handler.concurrency:
            # Whom it asks has refused the call, and not one of its items: the parts would be refused too, and paid for.
            return [error.with_traceback(None)] * len(batch)
        if is_device_lost(error):
            raise DeviceLost(f"{type(error).__name__}: {error}") from error
        if len(batch) == 1:
            return [_item_error(model, error, names[0] if names else {})]
        out_of_memory = is_out_of_memory(error)
    # Here the error is gone, and with its traceback the failed batch's tensors, which the halves may need the room of.
    if out_of_memory:
        model.halved_batches += 1
        _release_memory()
        if model.max_size >= len(batch):
            model.max_size = max(1, len(batch) // 2)
            logger.warning(Event.BATCH_HALVED, model=str(model.ref), size=len(batch), max_size=model.max_size)
    middle = len(batch) // 2
    ahead = predict(model, batch[:middle], names[:middle], listen)
    return ahead + predict(model, batch[middle:], names[middle:], listen and _from(middle, listen))


def _from(first: int, listen: Listen) -> Listen:
    """For a part of a batch, whose positions begin at 0 again."""
    return lambda start, stop: listen(first + start, first + stop)


def _item_error(model: LoadedModel, failure: Exception, names: Mapping[str, str]) -> ItemError:
    if isinstance(failure, ItemError):
        return failure.with_traceback(None)
    code = "out_of_memory" if is_out_of_memory(failure) else "predict_error"
    logger.error(Event.BATCH_FAILED, **names, model=str(model.ref), code=code, exc_info=failure)
    return ItemError(f"{type(failure).__name__}: {failure}", code=code)


def _checked(model: LoadedModel, batch: list[Any], outputs: Any, names: Sequence[Mapping[str, str]]) -> list[Any]:
    if message := wrong_count(outputs, len(batch)):
        told = {"code": "handler_contract", "message": message, "jobs": list(names)}
        logger.error(Event.BATCH_FAILED, model=str(model.ref), **told)
        return [ItemError(message, code="handler_contract") for _ in batch]
    return [honest(output) for output in outputs]


def is_out_of_memory(error: BaseException) -> bool:
    """The device's or the host's memory. Without importing torch: a worker of echo models has none."""
    torch = sys.modules.get("torch")
    kinds: tuple[type[BaseException], ...] = (MemoryError,)
    if torch is not None:
        kinds = (MemoryError, torch.OutOfMemoryError)
    # The libraries above CUDA say it in words.
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "STATUS_ALLOC_FAILED" in str(error))


def is_device_lost(error: BaseException) -> bool:
    """An error after which this process's CUDA context is of no use (https://docs.nvidia.com/cuda/cuda-runtime-api/,
    "sticky" errors): torch.AcceleratorError, or CUDA's in words. Not out of memory."""
    if isinstance(error, DeviceLost):
        return True
    torch = sys.modules.get("torch")
    if torch is None or is_out_of_memory(error):
        return False
    told = isinstance(error, RuntimeError) and str(error).startswith("CUDA error")
    return told or isinstance(error, torch.AcceleratorError)


def _release_memory() -> None:
    gc.collect(1)  # what the error had tied into a cycle; all generations would take as long as a predict
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
