"""Tiny encoders of the recognisers, real architectures with random weights, and recognisers in folders of their own."""

import json

import numpy as np
import torch
from tiny import tiny_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    HubertConfig,
    HubertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from hf_affectcodec import (
    AffectCodecFeatureExtractor,
    GraphFusionConfig,
    GraphFusionFeatureExtractor,
    GraphFusionForAudioClassification,
    TokenFusionConfig,
    TokenFusionFeatureExtractor,
    TokenFusionForAudioClassification,
)


LABELS = ["angry", "calm", "sad"]
SPEECH = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (4,) * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 1,
    "initializer_range": 0.2,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "ab", "ba"]
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """float32 [T] at 16 kHz, noise whose level rises and falls."""
    samples = np.random.default_rng(seed).standard_normal(round(16000 * seconds)) * 0.1
    return (samples * (1.2 + np.sin(np.arange(len(samples)) / 1500))).astype(np.float32)


def save_hubert(folder):
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**SPEECH)).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return model


def save_whisper(folder):
    """With a window of 3 s instead of 30."""
    torch.manual_seed(0)
    sizes = {"d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "init_std": 0.2, "vocab_size": 40}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = WhisperModel(
        WhisperConfig(**sizes, **heads, **tokens, max_source_positions=150, max_target_positions=20)
    ).eval()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(chunk_length=3).save_pretrained(folder)
    return model


def save_bert(folder):
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=12,
    )
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    model = BertModel(BertConfig(**config, vocab_size=len(WORDS), initializer_range=0.2)).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def save_ctc(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = Wav2Vec2CTCTokenizer(folder / "vocab.json")
    processor = Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=False), tokenizer)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**SPEECH, vocab_size=len(LETTERS), pad_token_id=0)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(10)  # so that what it hears changes over time
        model.lm_head.bias[1:4] = -1e4  # letters only
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def labels(names=LABELS) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def save_token_fusion(folder, kind: str, seed: int = 0, names=LABELS) -> TokenFusionForAudioClassification:
    """`kind` "codec": an AffectCodec in `./codec`, with eGeMAPS functionals; "encoder": k-means over a HuBERT in `./hubert`."""
    torch.manual_seed(seed)
    common = {"num_streams": 2, "classifier_hidden_size": 8, "initializer_range": 0.3, **labels(names)}
    if kind == "codec":
        codec = tiny_model()
        codec.save_pretrained(folder / "codec")
        AffectCodecFeatureExtractor(hop_length=codec.hop_length).save_pretrained(folder / "codec")
        sizes = {"vocab_size": 64, "hidden_size": 8, "opensmile_hidden_size": 6, "opensmile_fusion": "late"}
        config = TokenFusionConfig(tokenizer_kind="codec", tokenizer_model="./codec", **sizes, **common)
        model = TokenFusionForAudioClassification(config).eval()
        extractor = TokenFusionFeatureExtractor(opensmile_feature_set="eGeMAPSv02")
    else:
        save_hubert(folder / "hubert")
        config = TokenFusionConfig(
            tokenizer_model="./hubert", tokenizer_layers=[0, 2], vocab_size=8, hidden_size=12, **common
        )
        model = TokenFusionForAudioClassification(config).eval()
        model.set_centroids(torch.randn(2, 8, 12))
        extractor = TokenFusionFeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model


def save_graph_fusion(
    folder, seed: int = 0, names=LABELS, encoders=None, **changes
) -> GraphFusionForAudioClassification:
    """Whisper, BERT and a CTC recogniser in sub-folders (or in the folder `encoders`), eGeMAPS descriptors."""
    where = folder if encoders is None else encoders
    save_whisper(where / "whisper")
    save_bert(where / "bert")
    save_ctc(where / "ctc")
    prefix = "." if encoders is None else str(encoders)
    torch.manual_seed(seed)
    values = {
        "feature_sizes": {"audio": 12, "text": 8, "lld": 25},
        "token_sizes": {},
        "fused_modalities": ["audio", "text"],
        "hidden_size": 16,
        "intermediate_size": 24,
        "head_hidden_size": 12,
        "speech_encoders": {"audio": f"{prefix}/whisper"},
        "text_encoder": f"{prefix}/bert",
        "recognizer": f"{prefix}/ctc",
        "encoder_window_seconds": 3.0,
        **labels(names),
    }
    model = GraphFusionForAudioClassification(GraphFusionConfig(**{**values, **changes})).eval()
    with torch.no_grad():
        model.projections["lld"].linear.weight.mul_(1e-3)  # descriptors are as large as formants in Hz
        model.head.down_proj.weight.mul_(10)
    model.save_pretrained(folder)
    GraphFusionFeatureExtractor(opensmile_feature_set="eGeMAPSv02").save_pretrained(folder)
    return model
