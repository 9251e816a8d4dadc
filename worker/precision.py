"""`dtype: auto`: the fastest of the dtypes whose outputs are about float32's, found when a version is loaded.

bfloat16 is twice as fast as float32 where the CPU has AMX and several times slower where it has not; so it is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.compare import alike, difference, measure
from worker.inprocess import warm_items
from worker.memory import free
from worker.predict import is_device_lost

if TYPE_CHECKING:
    from worker.models import LoadedModel

EXACT = "float32"
GAIN = 1.1  # what is not so much faster is not worth its difference


@dataclass(slots=True)
class Precision:
    """`dtype` was found; `rates` are items a second of each that was tried, `refused` why others were not taken."""

    dtype: str = EXACT
    rates: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """JSON data."""
        rates = {dtype: round(rate, 1) for dtype, rate in self.rates.items()}
        return {"dtype": self.dtype, "items_per_s": rates, "refused": self.refused}


def candidates(device: str) -> Sequence[str]:
    """Beside float32. CPUs have no fast float16."""
    return ("bfloat16", "float16") if device.startswith("cuda") else ("bfloat16",)


def fastest(load: Callable[[str], LoadedModel], others: Sequence[str]) -> LoadedModel:
    """float32, or the fastest of `others` that gives about the same; it knows its `precision`. What is not taken is
    unloaded. Raises what `load` raises for float32; another that does not load, or does not run, is refused."""
    best = load(EXACT)
    if not warm_items(best.handler):
        best.precision = Precision(refused=dict.fromkeys(others, "the handler has no example to try it with"))
        return best
    try:
        rate, exact = _measured(best)
    except BaseException:
        best.handler.unload()
        raise
    found = Precision(rates={EXACT: rate})
    for dtype in others:
        loser: LoadedModel | None = None
        try:
            loser = load(dtype)
            rate, outputs = _measured(loser)
        # Whatever a kernel raises for this dtype, the answer is the same: not this one.
        except Exception as error:
            if is_device_lost(error):
                raise
            found.refused[dtype] = f"{type(error).__name__}: {error}"
        else:
            found.rates[dtype] = rate
            if not alike(exact, outputs):
                found.refused[dtype] = difference(exact, outputs)
            elif rate < GAIN * found.rates[found.dtype]:
                found.refused[dtype] = "not faster"
            else:
                loser, best, found.dtype = best, loser, dtype
        if loser is not None:
            loser.handler.unload()
            del loser
        free()
    best.precision = found
    return best


def _measured(model: LoadedModel) -> tuple[float, list[Any]]:
    compared = measure(model)
    return compared.items_per_s, compared.outputs
