"""For the tests of your own handler, in your own repository: `from worker.testing import run_handler`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.model_spec import ModelSpec, VersionSpec
from shared.settings import Settings
from shared.tasks import parse_parameters
from worker.handler import Context, Handler, ItemError
from worker.inprocess import as_item, plain, run_items
from worker.sources import fetch


def run_handler(
    handler: type[Handler[Any, Any]],
    inputs: Sequence[Any],
    *,
    source: str = "",
    parameters: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
) -> list[Any]:
    """Load `handler`, run `inputs` (instances of its input model, or plain JSON data) through prepare, predict and
    finish as one batch, and unload it. One output for each input, as the JSON data a client would read, or the
    ItemError that failed it. Raises what `load` and `predict` raise, InvalidInput for data that does not fit the
    input model, HandlerContract for a wrong number of outputs."""
    if handler.uses_torch:
        from worker.compat import install_torchvision_ops

        install_torchvision_ops()
    instance = handler()
    spec = ModelSpec(handler="tests:Handler", versions={"test": VersionSpec(source=source)})
    context = Context(
        model=handler.__name__,
        version="test",
        source=fetch(spec, spec.versions["test"], Settings()),
        device=device,
        options=options or {},
    )
    instance.load(context)
    try:
        own, _ = parse_parameters(instance.io, parameters)
        outputs = run_items(instance, [as_item(instance.io, value) for value in inputs], own)
        return [output if isinstance(output, ItemError) else plain(output) for output in outputs]
    finally:
        instance.unload()
