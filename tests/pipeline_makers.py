"""Tiny models for the pipeline tasks that read texts and images, from configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import pipeline_tokenizers as tokenizers

Maker = Callable[[Path], tuple[Any, ...]]
MODELS: dict[str, Maker] = {}  # name -> what makes its parts: the model first, then what has save_pretrained

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
_VISION = {**TEXT, "image_size": 32, "patch_size": 8}
_CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def maker(*names: str) -> Callable[[Maker], Maker]:
    def register(function: Maker) -> Maker:
        MODELS.update(dict.fromkeys(names, function))
        return function

    return register


def labels_of(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _bert(**options: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(vocab_size=126, max_position_embeddings=64, **{**TEXT, **options})


# Text ----------------------------------------------------------------------------------------------


@maker("text-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(_bert(**labels_of("bad", "good", "odd"))), tokenizers.bert()


@maker("text-classification/no-pad")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=258, n_positions=128, n_embd=32, n_layer=2, n_head=2, **labels_of("bad", "good"))
    return GPT2ForSequenceClassification(config), tokenizers.gpt2(pad=False)


@maker("zero-shot-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import BertForSequenceClassification

    labels = labels_of("contradiction", "neutral", "entailment")
    return BertForSequenceClassification(_bert(**labels)), tokenizers.bert()


@maker("token-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import BertForTokenClassification

    return BertForTokenClassification(_bert(**labels_of("O", "B-PER", "I-PER", "B-LOC"))), tokenizers.bert()


@maker("fill-mask")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(_bert()), tokenizers.bert()


@maker("feature-extraction")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import BertModel

    return BertModel(_bert()), tokenizers.bert()


def _llama() -> Any:
    from transformers import LlamaConfig

    tokens = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": 257}
    return LlamaConfig(vocab_size=300, max_position_embeddings=512, num_key_value_heads=2, **tokens, **TEXT)


@maker("text-generation")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(_llama()), tokenizers.gpt2(template=_CHAT)


@maker("text-generation/absolute")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=258, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_id=256)
    return GPT2LMHeadModel(config), tokenizers.gpt2()


@maker("text-generation/no-pad")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=258, n_positions=128, n_embd=32, n_layer=2, n_head=2, eos_token_id=256)
    return GPT2LMHeadModel(config), tokenizers.gpt2(pad=False)


@maker("decision")
def _(folder: Path) -> tuple[Any, ...]:
    import json

    from transformers import LlamaForCausalLM

    # Each byte is a token here, so the labels must be single letters.
    (folder / "decision.json").write_text(json.dumps({"labels": {"noul": ["Y", "N"]}}), encoding="utf-8")
    return LlamaForCausalLM(_llama()), tokenizers.gpt2(template=_CHAT)


@maker("table-question-answering")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import TapasConfig, TapasForQuestionAnswering

    sizes = {"type_vocab_sizes": [3, 64, 64, 2, 64, 64, 10], "max_position_embeddings": 64}
    aggregation = {
        "num_aggregation_labels": 2,
        "aggregation_labels": {0: "NONE", 1: "SUM"},
        "use_answer_as_supervision": True,
    }
    config = TapasConfig(vocab_size=126, **sizes, **aggregation, no_aggregation_label_index=0, **TEXT)
    return TapasForQuestionAnswering(config), tokenizers.tapas(folder)


@maker("document-question-answering")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import LayoutLMConfig, LayoutLMForQuestionAnswering

    config = LayoutLMConfig(vocab_size=126, max_position_embeddings=64, **TEXT)
    return LayoutLMForQuestionAnswering(config), tokenizers.bert()


# Images --------------------------------------------------------------------------------------------


def _processor(name: str, **options: Any) -> Any:
    import transformers

    size = {"height": 32, "width": 32}
    return getattr(transformers, name)(**{"size": size, "crop_size": size, **options})


@maker("image-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**_VISION, **labels_of("cat", "cup", "daisy"))
    return ViTForImageClassification(config), _processor("ViTImageProcessor")


@maker("image-feature-extraction")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(**_VISION)), _processor("ViTImageProcessor")


@maker("depth-estimation")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    return GLPNForDepthEstimation(config), _processor("GLPNImageProcessor")


@maker("image-segmentation")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig(decoder_hidden_size=16, **sizes, **labels_of("sky", "road", "tree"))
    return SegformerForSemanticSegmentation(config), _processor("SegformerImageProcessor")


@maker("object-detection")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import YolosConfig, YolosForObjectDetection

    shapes = {**_VISION, "image_size": [32, 48], "num_detection_tokens": 5}
    processor = _processor("YolosImageProcessor", size={"shortest_edge": 32, "longest_edge": 48})
    return YolosForObjectDetection(YolosConfig(**shapes, **labels_of("cat", "cup"))), processor


@maker("keypoint-matching")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import SuperGlueConfig, SuperGlueForKeypointMatching, SuperPointConfig

    keypoints = SuperPointConfig(
        encoder_hidden_sizes=[16, 16, 16, 16], decoder_hidden_size=16, keypoint_decoder_dim=65,
        descriptor_decoder_dim=16, keypoint_threshold=0.0, max_keypoints=20,
    )  # fmt: skip
    config = SuperGlueConfig(
        keypoint_detector_config=keypoints, hidden_size=16, keypoint_encoder_sizes=[16, 16],
        gnn_layers_types=["self", "cross"], num_attention_heads=2, sinkhorn_iterations=5, matching_threshold=0.0,
    )  # fmt: skip
    return SuperGlueForKeypointMatching(config), _processor("SuperGlueImageProcessor")


@maker("mask-generation")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8,
        window_size=4, global_attn_indexes=[1], mlp_dim=32, num_pos_feats=8, initializer_range=0.02,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    processor = _processor(
        "SamImageProcessor", size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32}, mask_pad_size={"height": 32, "width": 32},
    )  # fmt: skip
    return SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ), processor


@maker("video-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(num_frames=4, tubelet_size=2, **_VISION, **labels_of("walk", "run", "rest"))
    return VideoMAEForVideoClassification(config), _processor("VideoMAEImageProcessor")


# Images and texts ----------------------------------------------------------------------------------


@maker("zero-shot-image-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import CLIPConfig, CLIPModel

    text = {**TEXT, "vocab_size": 515, "max_position_embeddings": 32, "bos_token_id": 513, "eos_token_id": 514}
    config = CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)
    return CLIPModel(config), tokenizers.clip(), _processor("CLIPImageProcessor")


@maker("zero-shot-object-detection")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import OwlViTConfig, OwlViTForObjectDetection

    text = {**TEXT, "vocab_size": 515, "max_position_embeddings": 32, "bos_token_id": 513, "eos_token_id": 514}
    config = OwlViTConfig(text_config={**text, "pad_token_id": 0}, vision_config=_VISION, projection_dim=32)
    return OwlViTForObjectDetection(config), tokenizers.clip(), _processor("OwlViTImageProcessor")


@maker("image-text-to-text", "any-to-any")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = tokenizers.gpt2(side="left", template=None, image_token="<image>")  # noqa: S106  no secret
    vision = CLIPVisionConfig(projection_dim=16, **_VISION)
    config = LlavaConfig(vision_config=vision, text_config=_llama(), image_token_index=258, vision_feature_layer=-1)
    processor = LlavaProcessor(
        image_processor=_processor("CLIPImageProcessor"), tokenizer=tokenizer, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=_MULTIMODAL_CHAT,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


_MULTIMODAL_CHAT = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}<assistant>"
)
