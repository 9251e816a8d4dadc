"""How many threads of the CPU a worker uses. More than its share do not help: they are throttled together with those
that do the work, or take turns with other workers' threads, which wait for each other meanwhile.

The share is the container's quota where there is one. Else the workers of one host that run models on its CPU divide
its cores: each holds a lock in a folder that they share, which the kernel frees at any death.
"""

from __future__ import annotations

import fcntl
import math
import os
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

_CGROUP = Path("/sys/fs/cgroup/cpu.max")  # https://docs.kernel.org/admin-guide/cgroup-v2.html, "quota period" in us
_SLOTS = 64
_LOOK_S = 1.0


def quota(file: Path = _CGROUP) -> int | None:
    """The container's CPUs, rounded up; None where there is no limit, or no cgroup v2."""
    try:
        limit, period = file.read_text().split()
        return max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Before torch is imported: how long OpenMP's threads spin for the next parallel part of a forward before they
    sleep, about 0.3 ms, unless the user has said it. By itself libgomp takes ten times that, and after each forward a
    thread of its holds a core that the answer needs (docs/benchmarks.md)."""
    if "OMP_WAIT_POLICY" not in environ:
        environ.setdefault("GOMP_SPINCOUNT", "30000")


class CpuShare:
    """Of one process. `asked` is ML_TORCH_THREADS, which goes first where it is not 0; `counts`: it runs models on the
    CPU, so the others are to count it as soon as it has torch."""

    def __init__(
        self, asked: int, folder: Path, *, counts: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._asked, self._folder, self._counts, self._clock = asked, folder, counts, clock
        self._lock = threading.Lock()
        self._cores = self._share = 0
        self._slot: int | None = None
        self._again_at = float("-inf")

    def threads(self, cores: int) -> int:
        """Of `cores`, now: at least one."""
        if self._asked:
            return self._asked
        limit = quota()
        return min(cores, limit) if limit else max(1, cores // self._workers())

    @property
    def cores(self) -> int:
        """The most that `now` may ever say."""
        return (self._asked or len(os.sched_getaffinity(0))) if self._counts else 1

    def now(self) -> int:
        """How many threads of models are of use, by the last look; one where no CPU runs them, or nobody has looked."""
        return max(1, min(self._share, self.cores))

    def apply(self, parts: int = 1) -> int:
        """Let torch's forwards in this very thread use so many, or one of `parts` of them; how many that are. Cheap:
        call it before each. Where the folder cannot be written nobody is counted."""
        torch = sys.modules.get("torch")
        if not hasattr(torch, "set_num_threads"):  # another thread is importing it
            torch = None
        with self._lock:
            # Torch's own number is read before it is first changed.
            if self._clock() >= self._again_at or (torch is not None and not self._cores):
                self._look(torch)
            number = max(1, self._share // parts)
        if torch is not None and number != torch.get_num_threads():  # of this thread, as OpenMP has it
            torch.set_num_threads(number)
        return number

    def one(self) -> None:
        """Let torch's operations in this very thread use no other, where forwards need the cores. Cheap as `apply`."""
        if self._counts:
            self.apply(sys.maxsize)

    def _look(self, torch: Any) -> None:
        self._again_at = self._clock() + _LOOK_S
        if torch is not None:
            self._cores = self._cores or torch.get_num_threads()
            if self._counts and self._slot is None:
                locks = (self._hold(number, fcntl.LOCK_EX) for number in range(_SLOTS))
                self._slot = next((lock for lock in locks if lock is not None), None)
        self._share = self.threads(self._cores or len(os.sched_getaffinity(0)))

    def _workers(self) -> int:
        """That live on this host and hold a slot; this one is among them."""
        others = 0
        for number in range(_SLOTS):
            path = self._path(number)
            if not path.exists():
                break  # slots are taken from the first on, and their files stay
            probe = self._hold(number, fcntl.LOCK_SH)
            if probe is None:
                others += 1
            else:
                os.close(probe)
        return max(1, others + (self._slot is None))

    def _path(self, number: int) -> Path:
        return self._folder / f"cpu.{number}.lock"

    def _hold(self, number: int, kind: int) -> int | None:
        """The descriptor that holds the lock; None where another holds it, or there can be none."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
