"""`compile: true` of a version: torch.compile, which makes kernels for this very model while it is warmed
(https://docs.pytorch.org/docs/stable/generated/torch.compile.html)."""

from __future__ import annotations

import os
import shutil
from typing import Any

from shared.errors import ConfigError

_COMPILERS = ("g++", "clang++", "c++")


def compiled(module: Any, wanted: bool, device: str, *, same_size: bool = False) -> Any:
    """The same module, which is compiled at its first calls, for any length and batch size; as it is where that is not
    wanted. `same_size`: what it reads differs in number alone, as pictures that are all cut to one size; with sizes
    that are unknown the compiler works for many minutes on a network whose padding depends on them. Raises ConfigError
    where the CPU's kernels have no compiler, or the GPU's no Triton."""
    if not wanted:
        return module
    refuse_without_compiler(device)
    module.compile(dynamic=None if same_size else True)  # None: what turns out to differ, at its second value
    return module


def refuse_without_compiler(device: str) -> None:
    """Raises ConfigError that says what is missing."""
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError("compile: Triton is not installed; pip install triton, or leave compile off")
        return
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([named] if named else _COMPILERS)):
        looked = f"CXX={named}" if named else ", ".join(_COMPILERS)
        raise ConfigError(f"compile: no C++ compiler is found ({looked}); install one, or leave compile off")
