"""Tiny tokenizers made in code: no hub, no files but those they save."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "a",
    "an",
    "queue",
    "cat",
    "dog",
    "keeps",
    "what",
    "it",
    "was",
    "given",
    "is",
    "total",
    "how",
    "many",
    "people",
    "in",
    "oslo",
    "rome",
    "kind",
    "of",
    "this",
    "text",
]
PIECES = [*string.ascii_lowercase, *string.digits, *".,?!-:{}'<>/_"]


def _wordpieces() -> dict[str, int]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EMPTY]", *WORDS]
    tokens += PIECES + [f"##{piece}" for piece in PIECES]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _bytes(*specials: str) -> dict[str, int]:
    """Every byte as a token of its own, then the special ones."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: index for index, token in enumerate([*sorted(ByteLevel.alphabet()), *specials])}


def bert(limit: int = 64, *, segments: bool = True) -> Any:
    from transformers import BertTokenizer

    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return BertTokenizer(vocab=_wordpieces(), model_max_length=limit, model_input_names=names)


def tapas(folder: Path) -> Any:
    from transformers import TapasTokenizer

    file = folder / "words.txt"
    file.write_text("\n".join(_wordpieces()), encoding="utf-8")
    return TapasTokenizer(str(file), model_max_length=64)


def gpt2(*, pad: bool = True, template: str | None = None, side: str = "right", **extra: str) -> Any:
    from transformers import GPT2Tokenizer

    vocab = _bytes("<|endoftext|>", "<pad>", *extra.values())
    made = GPT2Tokenizer(vocab=vocab, merges=[], pad_token="<pad>" if pad else None, padding_side=side)
    made.chat_template = template
    if extra:
        made.add_special_tokens({"additional_special_tokens": [*extra.values()]})
        made.init_kwargs.update(extra)
        for name, token in extra.items():
            setattr(made, name, token)
    return made


def clip(limit: int = 32) -> Any:
    from transformers import CLIPTokenizer

    alphabet = [*_bytes(), *(f"{piece}</w>" for piece in _bytes())]
    tokens = ["<pad>", *alphabet, "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], pad_token="<pad>", model_max_length=limit)  # noqa: S106  no secret


def ctc(folder: Path) -> Any:
    import json

    from transformers import Wav2Vec2CTCTokenizer

    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_lowercase]
    file = folder / "letters.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    return Wav2Vec2CTCTokenizer(str(file))


def whisper() -> Any:
    from transformers import WhisperTokenizer

    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    specials += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    stamps = [f"<|{0.02 * index:.2f}|>" for index in range(1501)]
    made = WhisperTokenizer(vocab=_bytes(*specials, *stamps), merges=[], pad_token="<|endoftext|>")  # noqa: S106  no secret
    made.add_special_tokens({"additional_special_tokens": specials})
    return made


def vits(folder: Path) -> Any:
    import json

    from transformers import VitsTokenizer

    tokens = ["<pad>", "<unk>", " ", *string.ascii_lowercase, *".,'"]
    file = folder / "letters.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    return VitsTokenizer(str(file), pad_token="<pad>", unk_token="<unk>", phonemize=False, is_uroman=False)  # noqa: S106  no secret
