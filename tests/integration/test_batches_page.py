"""What docs/batches.md shows is so: its commands run against a real API, its JSON is what the API tells."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest

from shared.batches import Batch
from tests.api_stack import Hands, serving, settings

SHOWN = "batch_0b0f6fd1f8f84f5c8d9f8bd9a4f3a0a1"


def blocks(repository: Path, language: str) -> list[str]:
    page = (repository / "docs" / "batches.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_batch_is_as_shown(repository: Path) -> None:
    shown = orjson.loads(blocks(repository, "json")[0])
    batch = Batch.model_validate(shown)
    assert shown.keys() == Batch.model_fields.keys()
    assert sum(batch.counts.model_dump().values()) == 2 * batch.counts.total


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands are curl's")
async def test_the_commands_run(redis_url: str, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "inputs.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"no": "text"}')
    async with serving(asked := settings(redis_url, tmp_path)) as api:
        hands = Hands.on(asked)
        as_list, as_lines, follow = blocks(repository, "bash")

        async def shell(command: str) -> bytes:
            command = command.replace("localhost:8001", f"127.0.0.1:{api.port}")
            done = await asyncio.to_thread(
                subprocess.run, ["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=60
            )
            return done.stdout

        first = Batch.model_validate_json(await shell(as_list))
        second = Batch.model_validate_json(await shell(as_lines))
        assert (first.counts.total, first.labels) == (2, {"run": "7"})
        assert (second.counts.total, second.counts.failed) == (3, 1)
        await hands.finish_all(await hands.take(4))
        await shell(follow.replace(SHOWN, second.id))
        told = [orjson.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        assert [line["state"] for line in told] == ["succeeded", "succeeded", "failed"]
        shown = [orjson.loads(line) for line in blocks(repository, "json")[1].splitlines()]
        assert [told[0].keys(), told[2].keys()] == [shown[0].keys(), shown[1].keys()]
        assert told[2]["error"].keys() == shown[1]["error"].keys()
        await hands.client.aclose()
