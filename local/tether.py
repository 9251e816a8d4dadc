"""Run a command that cannot outlive its parent: `python tether.py PARENT_PID SIGNAL COMMAND [ARG ...]`.

Linux sends SIGNAL to the command when the thread that started it ends, even by kill -9. The setting survives exec, so
the command keeps this process's pid and nothing stays in between. It is a program of its own, run by path without the
site packages, because code between fork and exec in a process with threads can hang. Elsewhere it only runs the
command.
"""

from __future__ import annotations

import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, signal, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - a command line of our own, no shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
