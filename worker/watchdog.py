"""The watchdog: a call of a handler that takes longer than its model's timeout, or a device that is lost.

Neither a kernel nor a thread can be interrupted, and a broken CUDA context cannot be mended, so the jobs are settled
and the process exits 70, to be restarted by whoever runs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.logs import Event, get_logger
from worker.engine import Engine
from worker.pulse import Pulse
from worker.vital import EXIT_SOFTWARE, vital_thread

logger = get_logger("worker")


LAST_WORDS_S = 12.0  # to settle the jobs; where Redis does not answer they are redelivered


def start_watchdog(
    engine: Engine, pulse: Pulse, *, leave: Callable[[], None], interval_s: float, exit_process: Callable[[int], None]
) -> None:
    """In a daemon thread. `leave` takes the worker's sign of life away; `exit_process` must not return and must not
    wait for the device thread (`os._exit`)."""

    def watch() -> None:
        pause = threading.Event()
        while not pause.wait(interval_s):
            pulse.mark("watchdog")
            engine.end_overdue()
            engine.let_more_in()
            if stall := engine.stalled():
                works = stall.works
                names = [work.names for work in works]
                logger.error(Event.HANDLER_STALLED, step=stall.step, model=str(works[0].ref), jobs=names)
            elif engine.device_lost:
                works = engine.on_device()
                logger.error(Event.DEVICE_LOST, error=engine.device_lost, jobs=[work.names for work in works])
            else:
                continue
            last = threading.Timer(LAST_WORDS_S, exit_process, [EXIT_SOFTWARE])
            last.daemon = True
            last.start()
            try:
                leave()
                engine.settle(works, overdue=stall.step if stall else None)
            finally:
                exit_process(EXIT_SOFTWARE)

    vital_thread("watchdog", watch).start()
