"""Linear layers whose weights lie as the CPU's kernel reads them.

MKL, by which torch multiplies matrices in float32, lays a layer's weights out anew at each call: of a short text that
is most of the forward. oneDNN reads weights that were laid out once
(https://uxlfoundation.github.io/oneDNN/dev_guide_inference.html). torch has no documented way to it; these are the
operators that its compiler puts in a linear layer's place (torch/_inductor/fx_passes/mkldnn_fusion.py). So they are
used only where they are there, give the same, and a trial shows them to be no slower.

oneDNN makes a kernel for each number of rows, which takes milliseconds and memory that stays: a worker that met every
number up to a thousand would be a gigabyte larger. So a batch is filled up to the next of some eighty
numbers (and of few more above a thousand).

The kernel also takes GELU along, while what it gives is still in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.handlers.packed.encoder import Ids, PackedEncoder
from worker.handlers.packed.padded import agrees
from worker.handlers.packed.parts import Linear

STEPS, LAST_STEP = ((256, 8), (1024, 16)), 64  # up to so many rows, multiples of that
TRIES = 5  # of each way, in turns: the fastest of either counts

Then = Literal["none", "gelu"]


@dataclass(slots=True, frozen=True)
class Reordered(Linear):
    """`weight` is opaque: in oneDNN's own layout. `then`: what else the kernel does to what it gives."""

    then: Then = "none"

    @classmethod
    def from_plain(cls, linear: Linear, then: Then = "none") -> Reordered:
        """A copy. Raises RuntimeError or NotImplementedError where this build or CPU has no kernel for its dtype."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(linear.weight.contiguous()), linear.bias, then)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.then, [], "none")
        return y


def filled(rows: int) -> int:
    """The next number of rows that a kernel is made for: less than a quarter more from 32 on, than a sixteenth from 128
    on."""
    step = next((step for most, step in STEPS if rows <= most), LAST_STEP)
    return rows + -rows % step


def reordered(packed: PackedEncoder) -> PackedEncoder:
    """The same, so laid out. Raises as `Reordered.from_plain`."""
    plain = Reordered.from_plain
    if packed.weights.gated or packed.weights.activation is not F.gelu:
        other = packed.changed(plain)
    else:
        other = packed.changed(plain, up=partial(plain, then="gelu"), activation=_nothing)
    other.filled = filled
    return other


def faster(packed: PackedEncoder, ids: Sequence[Ids], least_cosine: float) -> PackedEncoder:
    """`packed`, or the same with its weights reordered if that gives the same for each of `ids` and is not slower over
    them all. On the CPU, in inference mode."""
    try:
        other = reordered(packed)
    # Whatever the build lacks, it stays as it is.
    except (RuntimeError, NotImplementedError, AttributeError):
        return packed
    if any(agrees(other, packed, batch, least_cosine) for batch in ids):
        return packed
    rounds = [(_seconds(other, ids), _seconds(packed, ids)) for _ in range(TRIES)]
    with_it, without = map(min, zip(*rounds, strict=True))
    return other if with_it <= without else packed


def _nothing(x: Tensor) -> Tensor:
    return x


def _seconds(encoder: PackedEncoder, ids: Sequence[Ids]) -> float:
    begun = time.perf_counter()
    for batch in ids:
        encoder(batch)
    return time.perf_counter() - begun
