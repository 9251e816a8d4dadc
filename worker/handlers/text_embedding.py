"""The task `text-embedding`: sentence encoders from transformers or sentence-transformers files.

`prepare` tokenises on a CPU thread (Rust, outside the GIL); `predict` packs the batch without padding where the
architecture allows it, otherwise sorts by length and pads; `finish` cuts and normalises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from shared.logs import Event, get_logger
from shared.tasks import TEXT_EMBEDDING, EmbeddingItem, EmbeddingParameters
from worker.compile import compiled
from worker.handler import Context, Handler, ItemError, Prepared
from worker.handlers.length import most_tokens
from worker.handlers.pooling import Recipe
from worker.quantize import quantized

_log = get_logger("worker")
CPU_PASS = 1024  # tokens of one forward, if nothing is calibrated: more loses to the cache
CPU_PADDED = 1.25  # of the texts' own tokens: one more forward costs less than so much padding
GPU_PASS = 65_536
LEAST_COSINE = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.99}
_PROBES = ("a", "The queue keeps what it was given.", "A longer text shares the pass with short ones. " * 9)


class TextEmbedding(Handler[EmbeddingItem, Any]):
    """Options of a version: `pooling`, `normalize`, `max_length`, `prompt` override the model's files;
    `packed: false` keeps to the padded forward; `token_ids: true` takes ids in a text's place."""

    io: ClassVar = TEXT_EMBEDDING
    quick: ClassVar = True
    example: ClassVar = [EmbeddingItem(text="A queue keeps what it was given.")]

    def load(self, ctx: Context) -> None:
        """Tokeniser, weights, pooling. Raises ConfigError for files that this handler does not understand."""
        from worker.handlers.pooling import load_dense, read_recipe
        from worker.sources import model_folder

        folder = model_folder(ctx.source)
        self.prepare_for(ctx, read_recipe(folder, ctx.options))
        self._load_encoder(folder, ctx)
        self.dense = [load_dense(path).to(ctx.device) for path in self.recipe.dense]
        self.width = len(self.predict([self.tokenizer.encode("a").ids])[0])

    def prepare_for(self, ctx: Context, recipe: Recipe) -> None:
        """What `prepare` and `predict` go by, beside the model."""
        self.recipe = recipe
        self.refuse = ctx.on_overlong == "refuse"
        self.takes_ids = bool(ctx.options.get("token_ids"))
        on_gpu = ctx.device.startswith("cuda")
        self.pass_tokens, self.most_padded = (GPU_PASS, math.inf) if on_gpu else (CPU_PASS, CPU_PADDED)

    def _load_encoder(self, folder: Path, ctx: Context) -> None:
        import torch
        from transformers import AutoTokenizer

        from worker.handlers.packed import PackedEncoder, PaddedEncoder

        slow = AutoTokenizer.from_pretrained(folder, trust_remote_code=ctx.trust_remote_code)
        trust = ctx.trust_remote_code
        kind = _encoder_class(folder, trust)
        model = kind.from_pretrained(folder, dtype=getattr(torch, ctx.dtype), trust_remote_code=trust)
        model = model.eval().requires_grad_(False).to(ctx.device)
        self.max_length = most_tokens(self.recipe.max_length, slow.model_max_length, model)
        self.load_tokenizer(slow)
        self.encode: Callable[..., Any] = PaddedEncoder(model, ctx.device, slow.pad_token_id or 0)
        self.padded = True  # type: ignore[misc]  # decided at load: a fact of this model, not of the class
        if ctx.options.get("packed", True) and not ctx.compile:
            self._try_packed(model, ctx)
        if ctx.quantize and isinstance(self.encode, PackedEncoder):
            self.encode = self.encode.quantized(ctx.quantize)
        else:
            quantized(model, ctx.quantize)
        compiled(model, ctx.compile, ctx.device)

    def load_tokenizer(self, slow: Any) -> None:
        """The tokeniser's Rust core alone: its own truncation, no padding."""
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(slow.backend_tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.max_length)
        self.specials = self.tokenizer.num_special_tokens_to_add(False)
        probe = self.tokenizer.encode("a")
        own = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        self.frame = probe.ids[: own[0]], probe.ids[own[-1] + 1 :]

    def _try_packed(self, model: Any, ctx: Context) -> None:
        """Take the packed forward if it gives what the padded one gives, by the first way to attend that does."""
        import torch

        from worker.handlers.packed import PackedEncoder, agrees, attentions, faster

        padded: Any = self.encode
        probes = [self.tokenizer.encode(text).ids for text in _PROBES]
        reason = ""
        try:
            packed = PackedEncoder(model, ctx.device)
        except (TypeError, AttributeError) as error:
            reason = str(error)
        else:
            ways = attentions(ctx.device, biased=packed.biased)
            reason = "" if ways else "no kernel of a GPU adds a bias to scores"
            for packed.attend in ways:
                with torch.inference_mode():
                    reason = agrees(packed, padded, probes, LEAST_COSINE[ctx.dtype])
                if not reason:
                    if ctx.device == "cpu" and not ctx.quantize:
                        with torch.inference_mode():
                            packed = faster(packed, [[ids] for ids in probes], LEAST_COSINE[ctx.dtype])
                    self.encode, self.padded = packed, False  # type: ignore[misc]  # as above
                    self.side_by_side = True  # it keeps nothing between calls; of transformers' models some do
                    return
        _log.info(Event.MODEL_NOTE, model=f"{ctx.model}@{ctx.version}", note=f"padded forward: {reason}")

    def prepare(self, item: EmbeddingItem, parameters: EmbeddingParameters) -> Prepared:
        """Token ids; the cost is their number. A text over the limit is cut and noted, or refused."""
        if parameters.dimensions is not None and parameters.dimensions > self.width:
            message = f"this model gives {self.width} dimensions, not {parameters.dimensions}"
            raise ItemError(message, pointer="/parameters/dimensions")
        if isinstance(item.text, list):
            return self._prepare_ids(item.text, parameters)
        text = self.recipe.prompt + item.text
        encoded = self.tokenizer.encode(text.lower() if self.recipe.lower else text)
        ids: list[int] = encoded.ids
        if not encoded.overflowing:
            return Prepared(ids, cost=len(ids), tokens=len(ids))
        self._may_cut(len(ids) + sum(len(more.ids) - self.specials for more in encoded.overflowing), parameters)
        return Prepared(ids, cost=len(ids), tokens=len(ids), notes={"truncated": True})

    def _prepare_ids(self, ids: list[int], parameters: EmbeddingParameters) -> Prepared:
        """Between the special tokens, as the tokeniser would have it."""
        if not self.takes_ids:
            message = "this model takes texts, not token ids (its version has no `token_ids: true`)"
            raise ItemError(message, pointer="/text")
        size = self.tokenizer.get_vocab_size()
        if max(ids) >= size:
            raise ItemError(f"token id {max(ids)} is not of this model's tokeniser, which has {size}", pointer="/text")
        before, after = self.frame
        room, notes = self.max_length - len(before) - len(after), None
        if len(ids) > room:
            self._may_cut(len(ids) + len(before) + len(after), parameters)
            notes = {"truncated": True}
        ids = [*before, *ids[:room], *after]
        return Prepared(ids, cost=len(ids), tokens=len(ids), notes=notes)

    def _may_cut(self, total: int, parameters: EmbeddingParameters) -> None:
        if self.refuse if parameters.truncate is None else not parameters.truncate:
            message = f"the text has {total} tokens; this model reads at most {self.max_length}"
            raise ItemError(message, pointer="/text")

    def predict(self, batch: list[list[int]]) -> list[Any]:
        """Pooled vectors, float32 [H] each, not yet normalised."""
        import torch

        from worker.handlers.pooling import pool

        outputs: list[Any] = [None] * len(batch)
        with torch.inference_mode():
            for places in self._passes(batch):
                hidden, sizes = self.encode([batch[i] for i in places])
                vectors = pool(hidden, sizes, self.recipe.modes)
                for dense in self.dense:
                    vectors = dense(vectors)
                for i, vector in zip(places, vectors.cpu().numpy(), strict=True):
                    outputs[i] = vector
        return outputs

    def _passes(self, batch: list[list[int]]) -> Iterator[list[int]]:
        """Indices of the texts of each forward: in order, or by length where padding is paid for."""
        order = sorted(range(len(batch)), key=lambda i: len(batch[i])) if self.padded else range(len(batch))
        places: list[int] = []
        tokens = real = 0
        for i in order:
            size = len(batch[i])
            tokens, real = size * (len(places) + 1) if self.padded else tokens + size, real + size
            if places and (tokens > self.pass_tokens or tokens > self.most_padded * real):
                yield places
                places, tokens, real = [], size, size
            places.append(i)
        if places:
            yield places

    def finish(self, outputs: list[Any], item: EmbeddingItem, parameters: EmbeddingParameters) -> dict[str, Any]:
        """The first `dimensions`, normalised as the model's files or the caller say."""
        vector: Any = outputs[0]
        if parameters.dimensions is not None:
            vector = vector[: parameters.dimensions]
        if self.recipe.normalize if parameters.normalize is None else parameters.normalize:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return {"embedding": np.ascontiguousarray(vector, dtype=np.float32)}

    def use_budget(self, max_cost: int) -> None:
        """A forward for a whole batch: a larger one is no faster, or the budget would be larger."""
        self.pass_tokens = max_cost

    def warm(self) -> list[EmbeddingItem]:
        """Texts of 8, 16, 32 ... tokens up to what the model reads, whatever pieces its tokeniser makes of a word."""
        one, two = (len(self.tokenizer.encode(self.recipe.prompt + text).ids) for text in ("word", "word word"))
        sizes = [size for size in (8 << step for step in range(20)) if one < size < self.max_length]
        words = [1 + (size - one) // max(1, two - one) for size in (*sizes, self.max_length)]
        return [EmbeddingItem(text=" ".join(["word"] * count)) for count in words]


def _encoder_class(folder: Path, trust: bool) -> Any:
    """The encoder alone where the model has a decoder too (T5)."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding

    known = type(AutoConfig.from_pretrained(folder, trust_remote_code=trust)) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return AutoModelForTextEncoding if known else AutoModel
