"""Tiny models for the pipeline tasks that hear or speak, from configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import pipeline_tokenizers as tokenizers
from tests.pipeline_makers import TEXT, labels_of, maker


def _wav2vec2(norm: str, **options: Any) -> Any:
    from transformers import Wav2Vec2Config

    convolutions = {"conv_dim": [16, 16, 16], "conv_kernel": [10, 8, 4], "conv_stride": [8, 8, 5]}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    return Wav2Vec2Config(feat_extract_norm=norm, vocab_size=31, **convolutions, **positions, **TEXT, **options)


def _waves(*, masked: bool) -> Any:
    from transformers import Wav2Vec2FeatureExtractor

    return Wav2Vec2FeatureExtractor(return_attention_mask=masked)


@maker("automatic-speech-recognition")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import Wav2Vec2ForCTC

    config = _wav2vec2("layer", do_stable_layer_norm=True)
    return Wav2Vec2ForCTC(config), tokenizers.ctc(folder), _waves(masked=True)


@maker("automatic-speech-recognition/no-mask")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import Wav2Vec2ForCTC

    return Wav2Vec2ForCTC(_wav2vec2("group")), tokenizers.ctc(folder), _waves(masked=False)


@maker("automatic-speech-recognition/whisper")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    ids = {"pad_token_id": 256, "bos_token_id": 256, "eos_token_id": 256, "decoder_start_token_id": 257}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 8, "max_target_positions": 64}
    sizes["max_source_positions"] = 50  # of one second
    model = WhisperForConditionalGeneration(WhisperConfig(vocab_size=1767, init_std=0.3, **layers, **sizes, **ids))
    model.get_input_embeddings().weight.data[256:] = 0  # so that letters win, not one of 1,500 timestamps
    generation = model.generation_config
    generation.lang_to_id, generation.task_to_id = {"<|en|>": 258, "<|de|>": 259}, {"translate": 260, "transcribe": 261}
    generation.is_multilingual, generation.no_timestamps_token_id = True, 265
    generation.alignment_heads, generation.max_length = [[0, 0]], None
    generation.begin_suppress_tokens, generation._from_model_config = [220], False
    return model, tokenizers.whisper(), WhisperFeatureExtractor(feature_size=8, chunk_length=1)


@maker("audio-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import Wav2Vec2ForSequenceClassification

    config = _wav2vec2("layer", do_stable_layer_norm=True, **labels_of("yes", "no", "noise"))
    return Wav2Vec2ForSequenceClassification(config), _waves(masked=True)


@maker("audio-classification/no-mask")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import Wav2Vec2ForSequenceClassification

    return Wav2Vec2ForSequenceClassification(_wav2vec2("group", **labels_of("yes", "no"))), _waves(masked=False)


@maker("zero-shot-audio-classification")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = {**TEXT, "vocab_size": 126, "max_position_embeddings": 64, "pad_token_id": 0, "projection_dim": 16}
    audio = {
        "depths": [1, 1], "num_attention_heads": [1, 1], "hidden_size": 32, "patch_embeds_hidden_size": 16,
        "spec_size": 64, "num_mel_bins": 16, "window_size": 4, "projection_dim": 16, "num_hidden_layers": 2,
    }  # fmt: skip
    features = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        hop_length=160,
        max_length_s=2,
        truncation="rand_trunc",
        frequency_max=8000,
    )
    return (
        ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)),
        tokenizers.bert(segments=False),
        features,
    )


@maker("text-to-audio")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import VitsConfig, VitsModel

    config = VitsConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, flow_size=16,
        spectrogram_bins=9, prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1,
        upsample_initial_channel=16, upsample_rates=[4, 4], upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1]], posterior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1, duration_predictor_filter_channels=16, depth_separable_num_layers=1,
        noise_scale=0.0, noise_scale_duration=0.0,
    )  # fmt: skip
    return VitsModel(config), tokenizers.vits(folder)


@maker("text-to-audio/vocoder")
def _(folder: Path) -> tuple[Any, ...]:
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech, SpeechT5HifiGan, SpeechT5HifiGanConfig

    SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            upsample_initial_channel=16,
            upsample_rates=[4],
            upsample_kernel_sizes=[8],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
        )
    ).save_pretrained(folder / "vocoder")
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "speech_decoder_prenet_units": 16, "num_mel_bins": 8}
    sizes |= {"speech_decoder_postnet_units": 16, "speech_decoder_postnet_layers": 2, "speaker_embedding_dim": 4}
    config = SpeechT5Config(
        vocab_size=32, hidden_size=16, max_text_positions=256, speech_decoder_prenet_dropout=0.0, **layers, **sizes
    )
    return SpeechT5ForTextToSpeech(config), tokenizers.vits(folder)
