"""docs/tasks.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from shared.tasks import BUILT_IN, check
from worker.handlers.pipeline_collate import BATCHING

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `([^`]+)`\n(.*?)(?=^##)", PAGE, re.S | re.M))


def test_every_task_has_its_section() -> None:
    assert set(SECTIONS) == set(BUILT_IN)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_section_tells_input_parameters_output_and_batching(name: str) -> None:
    task, section = BUILT_IN[name], SECTIONS[name]
    lines = dict(re.findall(r"^\* (\w+): (.*)$", section, re.M))
    for field in getattr(task.item, "model_fields", {}):
        assert f"`{field}`" in lines["Input"]
    told = set(re.findall(r"`(\w+)`", lines["Parameters"]))
    assert told == set(task.parameters.model_fields)
    if task.many:
        assert f"Many: `{task.many[1]}`" in lines["Input"]
    if name in BATCHING:
        assert lines["Batches"].startswith(f"**{BATCHING[name].value}**")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_its_example_is_valid(name: str) -> None:
    block = re.search(r"```json\n(.*)\n(.*)\n```", SECTIONS[name])
    assert block
    request, answer = json.loads(block[1]), json.loads(block[2])
    assert check(BUILT_IN[name], request["input"], request["parameters"]) == 1
    TypeAdapter(BUILT_IN[name].output).validate_python(answer["output"])
