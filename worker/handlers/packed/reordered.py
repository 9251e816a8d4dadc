"""Linear layers whose weights lie as the CPU's kernel reads them.

MKL, by which torch multiplies matrices in float32, lays a layer's weights out anew at each call: of a short text that
is most of the forward. oneDNN reads weights that were laid out once
(https://uxlfoundation.github.io/oneDNN/dev_guide_inference.html). torch has no documented way to it; these are the
operators that its compiler puts in a linear layer's place (torch/_inductor/fx_passes/mkldnn_fusion.py). So they are
used only where they are there, give the same, and a trial shows them to be no slower.

oneDNN makes a kernel for each number of rows, which takes milliseconds and memory that stays: a worker that met every
number up to a thousand would be a gigabyte larger. So a batch is filled up to the next of a few dozen numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.handlers.packed.encoder import Ids, PackedEncoder
from worker.handlers.packed.padded import agrees
from worker.handlers.packed.parts import Linear

STEPS, LAST_STEP = ((64, 8), (256, 16), (1024, 32)), 64  # up to so many rows, multiples of that
TRIES = 5  # of each way, in turns: the fastest of either counts


@dataclass(slots=True, frozen=True)
class Reordered(Linear):
    """`weight` is opaque: in oneDNN's own layout."""

    @classmethod
    def from_plain(cls, linear: Linear) -> Reordered:
        """A copy. Raises RuntimeError or NotImplementedError where this build or CPU has no kernel for its dtype."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(linear.weight.contiguous()), linear.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def filled(rows: int) -> int:
    """The next number of rows that a kernel is made for: at most a quarter more from 32 on."""
    step = next((step for most, step in STEPS if rows <= most), LAST_STEP)
    return rows + -rows % step


def faster(packed: PackedEncoder, ids: Sequence[Ids], least_cosine: float) -> PackedEncoder:
    """`packed`, or the same with its weights reordered if that gives the same for each of `ids` and is not slower over
    them all. On the CPU, in inference mode."""
    try:
        other = packed.changed(Reordered.from_plain)
        other.filled = filled
    # Whatever the build lacks, it stays as it is.
    except (RuntimeError, NotImplementedError, AttributeError):
        return packed
    if any(agrees(other, packed, batch, least_cosine) for batch in ids):
        return packed
    rounds = [(_seconds(other, ids), _seconds(packed, ids)) for _ in range(TRIES)]
    with_it, without = map(min, zip(*rounds, strict=True))
    return other if with_it <= without else packed


def _seconds(encoder: PackedEncoder, ids: Sequence[Ids]) -> float:
    begun = time.perf_counter()
    for batch in ids:
        encoder(batch)
    return time.perf_counter() - begun
