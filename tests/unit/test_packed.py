"""The packed forward of each family against transformers' own padded one: every token, texts of mixed lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests import models
from worker.handlers.packed import PackedEncoder, PaddedEncoder, agrees, attentions, faster
from worker.handlers.packed.attention import Packing, Sight, attend_each, attend_jagged
from worker.handlers.packed.encoder import READERS
from worker.handlers.packed.parts import Linear
from worker.handlers.packed.reordered import filled, reordered

models.ready_torch()

LENGTHS = [5, 1, 40, 17, 62, 2]


@dataclass(slots=True, frozen=True)
class Slow(Linear):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            y = Linear.__call__(self, x)
        return y


@dataclass(slots=True, frozen=True)
class Off(Linear):
    """As it would be if the other layout gave another answer."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return Linear.__call__(self, x).flip(-1)


def some_ids() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, 30_000, (n,), generator=generator).tolist() for n in LENGTHS]


def least_cosine(packed: PackedEncoder, model: Any) -> float:
    """Of all tokens, to the padded forward."""
    ids = some_ids()
    with torch.inference_mode():
        (ours, sizes), (theirs, _) = packed(ids), PaddedEncoder(model, "cpu", model.config.pad_token_id)(ids)
    assert sizes.tolist() == LENGTHS
    return torch.nn.functional.cosine_similarity(ours, theirs).min().item()


@pytest.mark.parametrize("kind", READERS)
def test_each_family_gives_what_its_padded_forward_gives(kind: str) -> None:
    model = models.encoder_model(kind)
    assert least_cosine(PackedEncoder(model, "cpu"), model) > 0.9999


@pytest.mark.parametrize("kind", ["mpnet", "modernbert"])
def test_biases_and_windows_count(kind: str) -> None:
    """Else the test above would say nothing of them."""
    model = models.encoder_model(kind)
    packed = PackedEncoder(model, "cpu")
    packed.weights.layers = [replace(layer, sight=Sight()) for layer in packed.weights.layers]
    assert least_cosine(packed, model) < 0.99


@pytest.mark.parametrize("kind", ["modernbert", "nomic_bert"])
def test_rotations_count(kind: str) -> None:
    model = models.encoder_model(kind)
    packed = PackedEncoder(model, "cpu")
    packed.weights.layers = [replace(layer, rotation=None) for layer in packed.weights.layers]
    assert least_cosine(packed, model) < 0.99


@pytest.mark.parametrize("kind", ["albert", "modernbert"])
def test_int8_keeps_layers_that_are_shared_and_linear_ones_without_a_bias(kind: str) -> None:
    model = models.encoder_model(kind)
    packed = PackedEncoder(model, "cpu")
    before = len(set(packed.weights.layers))
    packed = packed.quantized("int8")
    assert len(set(packed.weights.layers)) == before
    assert 0.9 < least_cosine(packed, model) < 0.999999


@pytest.mark.parametrize("kind", READERS)
def test_weights_laid_out_for_the_kernel_give_the_same(kind: str) -> None:
    model = models.encoder_model(kind)
    packed = PackedEncoder(model, "cpu")
    other = reordered(packed)
    assert all(layer.qkv.weight.layout == torch._mkldnn for layer in other.weights.layers)
    assert all(layer.qkv.weight.layout == torch.strided for layer in packed.weights.layers)
    assert least_cosine(other, model) > 0.9999


def test_a_kernel_does_what_comes_next_where_it_can() -> None:
    does = {
        kind: reordered(PackedEncoder(models.encoder_model(kind), "cpu")).weights for kind in ("bert", "modernbert")
    }
    assert {kind: does[kind].layers[0].up.then for kind in does} == {"bert": "gelu", "modernbert": "none"}


def test_kernels_are_made_for_some_eighty_numbers_of_rows() -> None:
    """Each costs memory that stays."""
    given = range(1, 1025)
    taken = {filled(rows) for rows in given}
    assert len(taken) == 80
    assert all(rows <= filled(rows) < rows + 16 for rows in given)
    assert all(filled(rows) <= 1.25 * rows for rows in given if rows >= 32)
    assert all(filled(rows) <= 1.06 * rows for rows in given if rows >= 128)
    assert filled(5000) == 5056


@pytest.mark.parametrize("kind", READERS)
def test_what_fills_a_batch_up_changes_nothing(kind: str) -> None:
    model = models.encoder_model(kind)
    packed = PackedEncoder(model, "cpu")
    seen: list[int] = []
    packed.filled = lambda tokens: seen.append(tokens) or tokens + 37
    assert least_cosine(packed, model) > 0.9999
    assert seen == [sum(LENGTHS)]


def test_the_faster_of_both_layouts_is_taken() -> None:
    packed = PackedEncoder(models.encoder_model("bert"), "cpu")
    slow = packed.changed(lambda linear: Slow(linear.weight, linear.bias))
    with torch.inference_mode():
        assert faster(slow, [some_ids()], 0.9999) is not slow


def test_a_layout_that_gives_something_else_is_not_taken() -> None:
    packed = PackedEncoder(models.encoder_model("bert"), "cpu")
    off = packed.changed(lambda linear: Off(linear.weight, linear.bias))
    with torch.inference_mode():
        assert faster(off, [some_ids()], 0.9999) is off


def test_where_there_is_no_kernel_weights_stay_as_they_are() -> None:
    packed = PackedEncoder(models.encoder_model("bert").double(), "cpu")
    with torch.inference_mode():
        assert faster(packed, [some_ids()], 0.9999) is packed


def test_a_family_that_nobody_has_written_is_told() -> None:
    with pytest.raises(TypeError, match="no packed forward for deberta-v2"):
        PackedEncoder(models.encoder_model("deberta-v2"), "cpu")


def test_rotations_that_depend_on_the_length_are_not_packed() -> None:
    model = models.encoder_model("gte")
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(TypeError, match="rotations of the type dynamic"):
        PackedEncoder(model, "cpu")


def test_a_gpu_has_no_way_to_attend_with_a_bias() -> None:
    packed, plain = (PackedEncoder(models.encoder_model(kind), "cpu") for kind in ("mpnet", "bert"))
    assert (packed.biased, plain.biased) == (True, False)
    assert attentions("cuda:0", biased=True) == []
    assert attentions("cuda:0")[-1] is attentions("cpu", biased=True)[0] is attend_each


def test_a_way_to_attend_that_cannot_is_not_taken() -> None:
    model = models.encoder_model("mpnet")
    packed = PackedEncoder(model, "cpu")
    packed.attend = attend_jagged
    with torch.inference_mode():
        why = agrees(packed, PaddedEncoder(model, "cpu", 1), some_ids(), 0.9999)
    assert why == "NotImplementedError: nested tensors take no mask"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("sight", [Sight(), Sight(window=10)])
def test_the_jagged_attention_of_gpus_gives_the_same(sight: Sight) -> None:
    """The kernel differs there; the shapes and the order of what goes in and out are the same on a CPU. A window that
    no text exceeds changes nothing."""
    torch.manual_seed(0)
    qkv, lengths = torch.randn(17, 3, 4, 8), [5, 1, 11]
    packing = Packing(lengths, torch.tensor([0, 5, 6, 17], dtype=torch.int32), 11)
    with torch.inference_mode():
        torch.testing.assert_close(attend_jagged(qkv, packing, sight), attend_each(qkv, packing, Sight()))
