"""How a sentence encoder's token vectors become one vector: what the model's own sentence-transformers files say.

    modules.json                  the chain: Transformer, Pooling, perhaps Dense and Normalize
    1_Pooling/config.json         mean, cls, max (several are concatenated)
    sentence_bert_config.json     max_seq_length, do_lower_case
    config_sentence_transformers.json   a default prompt

A folder without them is pooled by the mean and normalised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "lasttoken")


@dataclass(slots=True, frozen=True)
class Recipe:
    """`max_length` in tokens, special ones counted; None where the files do not say. `dense` are folders of further
    linear layers."""

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = True
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""
    dense: tuple[Path, ...] = ()


def read_recipe(folder: Path, options: dict[str, Any]) -> Recipe:
    """From the files of `folder`; the options `pooling`, `normalize`, `max_length` and `prompt` win over them. Raises
    ConfigError for a chain with a module that this handler does not know."""
    modes: tuple[str, ...] = ("mean",)
    normalize, dense = True, []
    modules = _read(folder / "modules.json")
    if modules:
        normalize = False
        for module in modules:
            kind, path = module["type"].rpartition(".")[2], folder / module["path"]
            if kind == "Pooling":
                modes = _modes(_read(path / "config.json"))
            elif kind == "Normalize":
                normalize = True
            elif kind == "Dense":
                dense.append(path)
            elif kind not in ("Transformer", "Dropout"):
                raise ConfigError(f"{folder}: modules.json has a {kind}, which text-embedding does not know")
    own = _read(folder / "sentence_bert_config.json")
    prompts = _read(folder / "config_sentence_transformers.json")
    modes = (options["pooling"],) if "pooling" in options else modes
    for mode in modes:
        if mode not in MODES:
            raise ConfigError(f"pooling {mode!r} is unknown; one of {', '.join(MODES)}")
    return Recipe(
        modes=modes,
        normalize=bool(options.get("normalize", normalize)),
        max_length=options.get("max_length", own.get("max_seq_length")),
        lower=bool(own.get("do_lower_case", False)),
        prompt=options.get("prompt", (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), "")),
        dense=tuple(dense),
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Both forms of 1_Pooling/config.json: a name or list, and the older flags."""
    named = config.get("pooling_mode")
    if named is not None:
        return (named,) if isinstance(named, str) else tuple(named)
    flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": None}
    prefix = "pooling_mode_"
    modes = [
        flags.get(key[len(prefix) :]) or key[len(prefix) :]
        for key, on in config.items()
        if on and key.startswith(prefix)
    ]
    return tuple(modes) or ("mean",)


def pool(tokens: Tensor, lengths: Tensor, modes: tuple[str, ...]) -> Tensor:
    """Packed token vectors [T, H] and the texts' lengths [N] (their sum is T) to [N, H x modes], float32."""
    import torch

    tokens = tokens.float()
    ends = lengths.cumsum(0)
    pooled = []
    for mode in modes:
        if mode == "cls":
            pooled.append(tokens[ends - lengths])
        elif mode == "lasttoken":
            pooled.append(tokens[ends - 1])
        elif mode == "max":
            pooled.append(torch.segment_reduce(tokens, "max", lengths=lengths, axis=0))
        else:
            sums = torch.segment_reduce(tokens, "sum", lengths=lengths, axis=0)
            scale = lengths.float() if mode == "mean" else lengths.float().sqrt()
            pooled.append(sums / scale[:, None])
    return torch.cat(pooled, dim=1) if len(pooled) > 1 else pooled[0]


def load_dense(folder: Path) -> Any:
    """One Dense module of sentence-transformers as torch layers."""
    import torch
    from safetensors.torch import load_file

    config = _read(folder / "config.json")
    layer = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in ("Tanh", "Identity", "ReLU", "GELU", "Sigmoid"):
        raise ConfigError(f"{folder}: Dense with the activation {activation!r} is not supported")
    if (folder / "model.safetensors").is_file():
        state = load_file(folder / "model.safetensors")
    else:
        state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    layer.load_state_dict({key.removeprefix("linear."): value for key, value in state.items()})
    return torch.nn.Sequential(layer, getattr(torch.nn, activation)()).eval()
