"""Whether anything can run on a GPU here."""

from __future__ import annotations

import os
import subprocess
import sys

from worker.gpus import all_gpus, visible_gpus

TRY = """
import torch
if torch.version.cuda is None:
    raise SystemExit(f"torch {torch.__version__} is a build without CUDA")
try:
    torch.ones(1, device="cuda").item()
except RuntimeError as error:
    raise SystemExit(f"torch cannot use the GPU: {str(error).splitlines()[0]}")
"""


def fault() -> str:
    """Why not, in one line; empty where it can. torch is asked in a process of its own: who claims a GPU later must
    not have imported it."""
    if not all_gpus():
        return "no NVIDIA GPU is here (or no driver that shows one)"
    if not visible_gpus():
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} shows no GPU"
    done = subprocess.run([sys.executable, "-c", TRY], check=False, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""
