"""The task `text-embedding` for an `.onnx` file: its tokeniser and pooling are those of the files beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from shared.errors import ConfigError
from worker.handler import Context
from worker.handlers.length import most_tokens
from worker.handlers.text_embedding import TextEmbedding
from worker.onnx import OnnxModel, files_beside, load, onnx_file

_KNOWN = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


class OnnxTextEmbedding(TextEmbedding):
    """Same options as TextEmbedding. The file gives a vector for each token (`last_hidden_state`), which is pooled like
    the torch model's."""

    def load(self, ctx: Context) -> None:
        """Raises ConfigError for a file that takes or gives something else."""
        import torch
        from transformers import AutoTokenizer

        from worker.handlers.packed import PaddedEncoder
        from worker.handlers.pooling import load_dense, read_recipe

        file = onnx_file(ctx.source)
        folder = files_beside(file, "tokenizer.json")
        self.prepare_for(ctx, read_recipe(folder, ctx.options))
        self.model = load(file, ctx, threads=torch.get_num_threads())
        unknown = set(self.model.inputs) - _KNOWN
        if unknown or "input_ids" not in self.model.inputs:
            raise ConfigError(f"{file} takes {', '.join(self.model.inputs)}; text-embedding gives {', '.join(_KNOWN)}")
        slow = AutoTokenizer.from_pretrained(folder)
        self.max_length = most_tokens(self.recipe.max_length, slow.model_max_length, None)
        self.load_tokenizer(slow)
        encoder = _Encoder(self.model, _token_output(self.model, str(file)))
        self.encode = PaddedEncoder(encoder, "cpu", slow.pad_token_id or 0)
        self.padded = True  # type: ignore[misc]  # as in TextEmbedding
        self.dense = [load_dense(path) for path in self.recipe.dense]
        self.width = len(self.predict([self.tokenizer.encode("a").ids])[0])

    def unload(self) -> None:
        """Drops the session."""
        del self.model, self.encode


def _token_output(model: OnnxModel, file: str) -> str:
    """The output with a vector for each token: rank 3."""
    found = [name for name, value in model.outputs.items() if len(value.shape or ()) == 3]
    if not found:
        raise ConfigError(f"{file} gives {', '.join(model.outputs)}, none of which has a vector for each token")
    return "last_hidden_state" if "last_hidden_state" in found else found[0]


class _Encoder:
    """As a transformers model is called."""

    def __init__(self, model: OnnxModel, output: str) -> None:
        self._model, self._output = model, output

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        """Tensors [N, T] to `last_hidden_state` [N, T, H]."""
        import torch

        values = {"input_ids": input_ids, "attention_mask": attention_mask}
        values["token_type_ids"] = torch.zeros_like(input_ids)
        values["position_ids"] = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        given = {name: value.numpy() for name, value in values.items() if name in self._model.inputs}
        return SimpleNamespace(last_hidden_state=torch.from_numpy(self._model.run(given, [self._output])[0]))
