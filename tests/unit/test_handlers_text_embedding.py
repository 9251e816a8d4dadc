"""text-embedding against transformers' own padded forward, and against sentence-transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.tasks import EmbeddingItem, EmbeddingParameters
from tests import models
from worker.handler import ItemError, Prepared
from worker.handlers.text_embedding import TextEmbedding
from worker.inprocess import run_items, warm_up

models.ready_torch()

TEXTS = [
    "Accepted is never lost.",
    "a",
    "The batch grows while the device is busy, and a lone job on an idle worker runs at once. " * 4,
    "Ünïcode, 数字 and 🙂",
    "queue " * 30,
]


@pytest.fixture(scope="module")
def minilm() -> TextEmbedding:
    handler = TextEmbedding()
    handler.load(models.context(models.minilm()))
    return handler


def embed(handler: TextEmbedding, texts: list[str], **parameters: Any) -> list[Any]:
    return run_items(handler, [EmbeddingItem(text=text) for text in texts], EmbeddingParameters(**parameters))


def vectors(handler: TextEmbedding, texts: list[str], **parameters: Any) -> np.ndarray:
    return np.stack([answer["embedding"] for answer in embed(handler, texts, **parameters)])


def reference(folder: str | Path, texts: list[str], max_length: int) -> list[np.ndarray]:
    """Each text's token vectors by transformers alone: one padded batch."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=max_length,
        return_token_type_ids=False,
        return_tensors="pt",
    )
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    return [row[mask.bool()].numpy() for row, mask in zip(hidden, batch["attention_mask"], strict=True)]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_minilm_is_packed_and_gives_what_sentence_transformers_gives(minilm: TextEmbedding) -> None:
    from sentence_transformers import SentenceTransformer

    assert not minilm.padded
    assert minilm.max_length == 256
    theirs = SentenceTransformer(models.minilm(), device="cpu").encode(TEXTS)
    ours = vectors(minilm, TEXTS)
    assert ours.dtype == np.float32
    assert (ours * theirs).sum(axis=1).min() > 0.99999


def test_packed_equals_the_padded_forward_for_each_length(minilm: TextEmbedding) -> None:
    texts = ["queue worker batch " * n for n in (1, 2, 3, 7, 20, 60, 120)]
    theirs = [unit(tokens.mean(axis=0)) for tokens in reference(models.minilm(), texts, 256)]
    ours = vectors(minilm, texts)
    assert min(float(a @ b) for a, b in zip(ours, theirs, strict=True)) > 0.9999


def test_a_batch_of_many_passes_keeps_its_order(minilm: TextEmbedding) -> None:
    texts = [f"text number {i} " * (1 + i * 7 % 60) for i in range(30)]
    together = vectors(minilm, texts)
    assert sum(minilm.prepare(EmbeddingItem(text=text), EmbeddingParameters()).cost for text in texts) > 2 * 1024
    for i in range(0, len(texts), 4):
        np.testing.assert_allclose(together[i], vectors(minilm, [texts[i]])[0], atol=1e-5)


def test_near_meanings_are_near(minilm: TextEmbedding) -> None:
    cat, kitten, bond = vectors(minilm, ["A cat sleeps.", "A kitten is asleep.", "Bond yields rose on Monday."])
    assert cat @ kitten > 0.7
    assert cat @ bond < 0.3


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "modernbert"])
def test_each_packed_architecture_agrees_with_its_own_forward(tmp_path: Path, kind: str) -> None:
    folder = models.encoder(tmp_path / kind, kind)
    handler = TextEmbedding()
    handler.load(models.context(folder))
    assert not handler.padded
    theirs = [unit(tokens.mean(axis=0)) for tokens in reference(folder, TEXTS, handler.max_length)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)


def test_another_architecture_is_padded_sorted_by_length_and_in_order(tmp_path: Path) -> None:
    folder = models.encoder(tmp_path / "deberta", "deberta-v2")
    handler = TextEmbedding()
    handler.load(models.context(folder))
    assert handler.padded
    theirs = [unit(tokens.mean(axis=0)) for tokens in reference(folder, TEXTS, 64)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_positions_that_begin_behind_the_paddings_are_not_exceeded(tmp_path: Path, packed: bool) -> None:
    folder = models.encoder(tmp_path / "mpnet", "mpnet")
    handler = TextEmbedding()
    handler.load(models.context(folder, options={"packed": packed}))
    assert handler.padded is not packed
    assert handler.max_length == 62  # MPNet's padding is 1
    theirs = [unit(tokens.mean(axis=0)) for tokens in reference(folder, TEXTS, 62)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)


def test_passes_of_a_padded_model_hold_texts_of_like_length(tmp_path: Path) -> None:
    handler = TextEmbedding()
    handler.load(models.context(models.encoder(tmp_path / "m"), options={"packed": False}))
    handler.pass_tokens = 100
    batch = [[1] * n for n in (50, 3, 49, 4, 5)]
    passes = list(handler._passes(batch))
    assert passes == [[1, 3, 4], [2, 0]]


def test_a_packed_forward_that_disagrees_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.handlers.packed.bert import bert
    from worker.handlers.packed.encoder import READERS

    def one_layer(model: Any) -> Any:
        weights = bert(model)
        weights.layers = weights.layers[:1]
        return weights

    folder = models.encoder(tmp_path / "bert")
    monkeypatch.setitem(READERS, "bert", one_layer)
    handler = TextEmbedding()
    handler.load(models.context(folder))
    assert handler.padded
    theirs = [unit(tokens.mean(axis=0)) for tokens in reference(folder, TEXTS, 64)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda t: t[0]),
        ({"pooling_mode_max_tokens": True, "word_embedding_dimension": 32}, lambda t: t.max(axis=0)),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, lambda t: t.mean(axis=0)),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            lambda t: np.concatenate([t.mean(axis=0), t.max(axis=0)]),
        ),
    ],
)
def test_pooling_and_limits_follow_the_models_own_files(tmp_path: Path, config: dict[str, Any], expected: Any) -> None:
    folder = models.encoder(tmp_path / "bert")
    models.sentence_files(folder, pooling=config, normalize=False, max_length=20)
    handler = TextEmbedding()
    handler.load(models.context(folder))
    theirs = [expected(tokens) for tokens in reference(folder, TEXTS, 20)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)
    assert np.linalg.norm(vectors(handler, TEXTS, normalize=True), axis=1) == pytest.approx(1)


def test_options_win_over_the_files(tmp_path: Path) -> None:
    folder = models.encoder(tmp_path / "bert")
    models.sentence_files(folder, pooling={"pooling_mode": "mean"}, normalize=True)
    handler = TextEmbedding()
    handler.load(models.context(folder, options={"pooling": "cls", "normalize": False, "max_length": 8}))
    theirs = [tokens[0] for tokens in reference(folder, TEXTS, 8)]
    np.testing.assert_allclose(vectors(handler, TEXTS), np.stack(theirs), atol=1e-4)


def test_a_module_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = models.encoder(tmp_path / "bert")
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.WordWeights", "path": ""}]))
    with pytest.raises(ConfigError, match="WordWeights"):
        TextEmbedding().load(models.context(folder))
    with pytest.raises(ConfigError, match="pooling 'middle' is unknown"):
        TextEmbedding().load(models.context(models.encoder(tmp_path / "b"), options={"pooling": "middle"}))


def test_a_dense_module_gives_what_sentence_transformers_gives(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(2)
    parts = [Transformer(str(models.encoder(tmp_path / "bert"))), Pooling(32, "mean"), Dense(32, 12)]
    theirs = SentenceTransformer(modules=parts, device="cpu")
    theirs.save(str(tmp_path / "st"))
    handler = TextEmbedding()
    handler.load(models.context(tmp_path / "st"))
    np.testing.assert_allclose(vectors(handler, TEXTS), theirs.encode(TEXTS), atol=1e-4)


def test_an_overlong_text_is_cut_and_told(minilm: TextEmbedding) -> None:
    long, short = embed(minilm, ["word " * 300, "word"])
    assert long["truncated"] is True
    assert "truncated" not in short
    prepared = minilm.prepare(EmbeddingItem(text="word " * 300), EmbeddingParameters())
    assert not isinstance(prepared, list)
    assert prepared.cost == 256


def test_an_overlong_text_is_refused_where_wanted(minilm: TextEmbedding) -> None:
    refused, kept = embed(minilm, ["word " * 900, "word"], truncate=False)
    assert isinstance(refused, ItemError)
    assert (refused.code, refused.pointer) == ("invalid_input", "/text")
    assert refused.message == "the text has 902 tokens; this model reads at most 256"
    assert len(kept["embedding"]) == 384


def test_on_overlong_refuse_is_the_models_default_and_still_warms_up(tmp_path: Path) -> None:
    handler = TextEmbedding()
    handler.load(models.context(models.encoder(tmp_path / "bert"), on_overlong="refuse"))
    assert isinstance(embed(handler, ["word " * 300])[0], ItemError)
    assert embed(handler, ["word " * 300], truncate=True)[0]["truncated"] is True
    warm_up(handler)
    longest = handler.prepare(handler.warm()[-1], EmbeddingParameters())
    assert not isinstance(longest, list)
    assert longest.cost == handler.max_length


def test_dimensions_are_cut_then_normalised(minilm: TextEmbedding) -> None:
    full = vectors(minilm, TEXTS)
    np.testing.assert_allclose(vectors(minilm, TEXTS, dimensions=64), np.stack([unit(v[:64]) for v in full]), atol=1e-5)
    raw = vectors(minilm, TEXTS, normalize=False)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-2)
    refused = embed(minilm, ["a"], dimensions=385)[0]
    assert isinstance(refused, ItemError)
    assert "384 dimensions" in refused.message


def test_a_source_that_nobody_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder of model files"):
        TextEmbedding().load(models.context("nobody/nothing"))


def test_token_ids_in_a_texts_place(minilm: TextEmbedding, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(given: Any, **parameters: Any) -> Prepared:
        return minilm.prepare(EmbeddingItem(text=given), EmbeddingParameters(**parameters))

    ids = minilm.tokenizer.encode("a queue keeps what it was given", add_special_tokens=False).ids
    with pytest.raises(ItemError, match="takes texts, not token ids"):
        prepared(ids)
    monkeypatch.setattr(minilm, "takes_ids", True)
    assert prepared(ids) == prepared("a queue keeps what it was given")
    cut = prepared(ids * 100)
    assert (len(cut.item), cut.notes) == (minilm.max_length, {"truncated": True})
    assert (cut.item[0], cut.item[-1]) == (prepared(ids).item[0], prepared(ids).item[-1]), "still framed"
    with pytest.raises(ItemError, match="this model reads at most"):
        prepared(ids * 100, truncate=False)
    with pytest.raises(ItemError, match="is not of this model's tokeniser"):
        prepared([10**6])
