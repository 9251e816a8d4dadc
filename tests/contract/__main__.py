"""`make openapi-test`: schemathesis against a live service, with every check that it has and stateful links.

Schemathesis (https://schemathesis.readthedocs.io) reads /openapi.json and sends what fits it and what does not: answers
must be the ones that are described. It lies in a virtual environment of its own, since it wants other versions of what
we use. The service is real: a server, an API with keys on, a worker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from local.embedded import EmbeddedServer
from tests.processes import REPOSITORY, api, environment, worker

SCHEMATHESIS = REPOSITORY / ".venv-openapi" / "bin" / "st"
CONFIG = Path(__file__).with_name("schemathesis.toml")
MODELS = """
models:
  echo: {task: echo, versions: {"1": {}}}
"""


def make_key(env: dict[str, str], *options: str) -> tuple[str, str]:
    """Id and secret, as the first key is made."""
    told = subprocess.run(
        [sys.executable, "-m", "api", "keys", "create", *options],
        env=env,
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    words = dict(line.split(maxsplit=1) for line in told.stdout.splitlines()[:3])
    return words["id"], words["secret"]


def main() -> int:
    """The exit code of schemathesis."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("--scope", action="append", help="of the key that is used; default: admin")
    options, more = parser.parse_known_args()
    scopes = [f"--scope={scope}" for scope in options.scope or ["admin"]]
    with tempfile.TemporaryDirectory(prefix="ml-openapi-") as name:
        folder = Path(name)
        models = folder / "models.yaml"
        models.write_text(MODELS)
        with EmbeddedServer(folder / "redis") as server:
            waits = {"ML_MAX_WAIT_S": "2", "ML_INFERENCE_WAIT_S": "2"}  # a paused model is not waited for
            env = environment(server.url, models, ML_AUTH="on", **waits)
            key_id, secret = make_key(env, "--name=contract", *scopes)
            with worker(server.url, models), api(server.url, models, ML_AUTH="on", **waits) as url:
                hooks = os.environ | {"SCHEMATHESIS_HOOKS": "tests.contract.hooks", "CONTRACT_KEY": key_id}
                command = [
                    SCHEMATHESIS,
                    f"--config-file={CONFIG}",
                    "run",
                    f"{url}/openapi.json",
                    "-H",
                    f"Authorization: Bearer {secret}",
                    *more,
                ]
                return subprocess.run(command, env=hooks, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
