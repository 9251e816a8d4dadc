"""Makes torchvision importable on a CPU build of torch.

The usual torchvision wheel is built for CUDA torch. On a CPU torch its extension cannot load, and `import torchvision`
raises because the operator `torchvision::nms` does not exist; transformers imports torchvision whenever it is
installed. So call `install_torchvision_ops()` before either. It does nothing where the extension loads.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_keep: list[Any] = []  # a torch.library.Library undoes its definitions when it is collected


def install_torchvision_ops() -> bool:
    """Once a process, before torchvision or transformers are imported; more calls do nothing. Returns whether the
    replacement is in use. The thread that loads models."""
    if _keep:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _extension_loads(Path(spec.origin).parent):
        return False
    import torch

    make: Any = torch.library.Library  # untyped
    library = make("torchvision", "DEF")
    library.define(f"nms{_NMS}")
    library.define(f"qnms{_NMS}")
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("qnms", nms, "CompositeExplicitAutograd")
    _keep.append(library)
    boxes: Any = importlib.import_module("torchvision.ops.boxes")
    boxes._assert_has_ops = lambda: None  # the only operators that boxes.py calls are the two above
    return True


def nms(dets: Any, scores: Any, iou_threshold: float) -> Any:
    """Greedy non-maximum suppression in plain torch. `dets` [N, 4] as x1, y1, x2, y2; returns the kept indices, best
    score first, like torchvision's own."""
    import torch

    order = scores.argsort(descending=True, stable=True)
    boxes = (dets.dequantize() if dets.is_quantized else dets)[order].float()
    x1, y1, x2, y2 = boxes.unbind(1)
    areas = (x2 - x1) * (y2 - y1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if alive[i]:
            width = (torch.minimum(x2[i], x2[i + 1 :]) - torch.maximum(x1[i], x1[i + 1 :])).clamp(min=0)
            height = (torch.minimum(y2[i], y2[i + 1 :]) - torch.maximum(y1[i], y1[i + 1 :])).clamp(min=0)
            shared = width * height
            alive[i + 1 :] &= shared <= iou_threshold * (areas[i] + areas[i + 1 :] - shared)
    return order[alive]


def _extension_loads(folder: Path) -> bool:
    """Whether torchvision's own operators can be had; loads them if so."""
    import torch

    ops: Any = torch.ops  # untyped
    library = next((path for path in folder.glob("_C*") if path.suffix in (".so", ".pyd", ".dylib")), None)
    if library is None:
        return False
    try:
        ops.load_library(str(library))
    except (OSError, ImportError):
        return False
    return True
