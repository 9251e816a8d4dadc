"""Other processes of this machine."""

from __future__ import annotations

import os


def lives(pid: int) -> bool:
    """Whether a process has this id, also another user's. (It may be another than had it before.)"""
    if pid <= 0:  # those mean groups of processes
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
