"""From the host to the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The same there. To a GPU by pinned memory, so that the host does not wait for the copy
    (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html)."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor.to(device)
