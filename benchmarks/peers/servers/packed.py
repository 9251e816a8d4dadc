"""A forward that has no padding, from texts to unit vectors: what any user of any server can write.

The tokens of a batch lie one after another; only attention looks at texts as such. It needs nothing of this project.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from embedder import MAX_TOKENS, model_folder, setting
from tokenizers import Tokenizer
from torch import Tensor


class Reordered(torch.nn.Module):
    """A linear layer whose weights are laid out once for oneDNN, by the operators of torch's compiler."""

    def __init__(self, weight: Tensor, bias: Tensor, then: str = "none") -> None:
        super().__init__()
        self.then = then
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()), bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] to [T, out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.then, [], "none")
        return y


class Packed:
    """Texts to unit vectors, `chunk` texts or `PASS_TOKENS` tokens a forward, in their order."""

    def __init__(self) -> None:
        from transformers import AutoModel

        folder = model_folder()
        self.chunk, self.most = setting("CHUNK", 16), setting("PASS_TOKENS", 1024)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.model = AutoModel.from_pretrained(folder).eval().requires_grad_(False)
        self.heads = self.model.config.num_attention_heads
        self.fused = []
        for layer in self.model.encoder.layer:
            own = layer.attention.self
            parts = (own.query, own.key, own.value)
            self.fused.append(Reordered(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])))
            for place in (layer.attention.output, layer.output):
                place.dense = Reordered(place.dense.weight, place.dense.bias)
            up = layer.intermediate
            up.dense, up.intermediate_act_fn = Reordered(up.dense.weight, up.dense.bias, "gelu"), torch.nn.Identity()

    def __call__(self, texts: list[str]) -> list[list[float]]:
        """In the order of the texts."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        vectors: list[list[float]] = []
        batch: list[list[int]] = []
        for one in ids:
            if batch and (len(batch) == self.chunk or sum(map(len, batch)) + len(one) > self.most):
                vectors += self._forward(batch)
                batch = []
            batch.append(one)
        return vectors + self._forward(batch)

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> list[list[float]]:
        count, rows = len(ids), sum(map(len, ids))
        if more := -rows % (8 if rows <= 256 else 16):  # oneDNN makes a kernel for each number
            ids = [*ids, [0] * more]
        sizes = [len(one) for one in ids]
        places = torch.cat([torch.arange(size) for size in sizes])
        words = torch.tensor([token for one in ids for token in one])
        table = self.model.embeddings
        hidden = table.LayerNorm(
            table.word_embeddings(words) + table.position_embeddings(places) + table.token_type_embeddings.weight[0]
        )
        for layer, fused in zip(self.model.encoder.layer, self.fused, strict=True):
            mixed = self._attend(fused(hidden), sizes)
            hidden = layer.output(layer.intermediate(attended := layer.attention.output(mixed, hidden)), attended)
        means = torch.stack([part.mean(0) for part in hidden.split(sizes)[:count]])
        made: list[list[float]] = F.normalize(means, dim=1).tolist()
        return made

    def _attend(self, qkv: Tensor, sizes: list[int]) -> Tensor:
        outs = []
        for part in qkv.view(len(qkv), 3, self.heads, -1).split(sizes):
            query, key, value = part.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
            outs.append(F.scaled_dot_product_attention(query, key, value).squeeze(0).transpose(0, 1))
        return torch.cat(outs).flatten(1)
