"""Infinity by its own command line: `infinity_emb v2`."""

from __future__ import annotations

import sys

from embedder import model_folder, setting

# It asks transformers for BetterTransformer, which present torch and transformers no longer have.
ARGUMENTS = (
    f"--model-id {model_folder()} --served-model-name bert --engine torch --device cpu --dtype float32 "
    f"--no-bettertransformer --no-compile --batch-size {setting('CHUNK', 32)} "
    f"--host 127.0.0.1 --port {setting('PORT', 7997)} --log-level warning"
)

if __name__ == "__main__":
    from infinity_emb.cli import cli

    sys.argv = ["infinity_emb", "v2", *ARGUMENTS.split()]
    cli()
