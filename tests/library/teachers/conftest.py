"""The real architecture of each teacher, tiny and random, built from its configuration class."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
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


# The base layout of HuBERT and wav2vec 2.0: group norm over time, which padding would leak into.
SPEECH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "group",
    "initializer_range": 0.2,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "we", "are", "not", "amused"]
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDE"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def hubert():
    torch.manual_seed(0)
    return HubertModel(HubertConfig(**SPEECH)), Wav2Vec2FeatureExtractor(return_attention_mask=False)


@pytest.fixture
def clap():
    """The whole model, as released, and its feature extractor. The geometry is the real one: 1024 x 64 to 2 x 32."""
    torch.manual_seed(0)
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8,
        depths=(1, 1, 1, 1),
        num_attention_heads=(1, 1, 2, 2),
        hidden_size=64,
        projection_dim=8,
        initializer_factor=8.0,
    )
    text = ClapTextConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, projection_dim=8
    )
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8))
    return model, ClapFeatureExtractor(frequency_min=50, frequency_max=14_000)


@pytest.fixture
def whisper():
    """With a window of 3 s instead of 30."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=40,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=150,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=0.2,
    )
    return WhisperModel(config), WhisperFeatureExtractor(chunk_length=3)


@pytest.fixture
def bert():
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        initializer_range=0.2,
    )
    return BertModel(config), tokenizer


@pytest.fixture
def ctc(tmp_path):
    torch.manual_seed(0)
    (tmp_path / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    processor = Wav2Vec2Processor(
        feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=False),
        tokenizer=Wav2Vec2CTCTokenizer(tmp_path / "vocab.json"),
    )
    return Wav2Vec2ForCTC(Wav2Vec2Config(**SPEECH, vocab_size=len(LETTERS), pad_token_id=0)), processor


@pytest.fixture
def check_frames(synthesize_speech):
    """The function: what every frame teacher must fulfil, tried on waveforms of the given seconds."""

    def check(teacher, seconds=(2.0, 0.01, 1.013), perturbed=(1.0, 1.5), locality=2.0):
        waveforms = [torch.from_numpy(synthesize_speech(s, seed=i)) for i, s in enumerate(seconds)]
        together = teacher(waveforms)
        for waveform, features in zip(waveforms, together, strict=True):
            assert features.shape == (-(-len(waveform) // 320), teacher.feature_size)
            assert features.dtype == torch.float32 and not features.requires_grad and features.isfinite().all()
            assert torch.equal(teacher([waveform])[0], features)  # not a bit depends on the others
        # time order: what happens in an interval moves the frames of that interval most
        changed = waveforms[0].clone()
        first, last = (round(second * 16_000) for second in perturbed)
        changed[first:last] = torch.randn(last - first, generator=torch.Generator().manual_seed(1)) * 0.1
        moved = (teacher([changed])[0] - together[0]).norm(dim=-1)
        inside = torch.zeros(len(moved), dtype=torch.bool)
        inside[first // 320 : last // 320] = True
        assert moved[inside].mean() > locality * moved[~inside].mean()
        assert inside[moved.argmax()]
        return moved

    return check
