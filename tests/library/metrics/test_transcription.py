import json

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from hf_affectcodec.metrics.transcription import (
    CTCTranscriber,
    WhisperTranscriber,
    load_transcriber,
    split_at_pauses,
)


SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|transcribe|>", "<|translate|>"]
SPECIAL += ["<|notimestamps|>"]


def save_whisper(path, multilingual: bool):
    """The real architecture with windows of 3 s instead of 30, tiny and random, over bytes."""
    torch.manual_seed(0)
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = WhisperTokenizer(vocab=ids, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    config = WhisperConfig(
        vocab_size=len(ids),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=150,
        max_target_positions=16,
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        init_std=1.0,
    )
    model = WhisperForConditionalGeneration(config)
    settings = {
        "max_length": 12,
        "num_beams": 3,  # a checkpoint may say so; the transcriber is greedy all the same
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": multilingual,
    }
    if multilingual:
        settings["lang_to_id"] = {token: ids[token] for token in ("<|en|>", "<|fr|>")}
        settings["task_to_id"] = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    model.generation_config = GenerationConfig(**settings)
    model.save_pretrained(path)
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=3), tokenizer).save_pretrained(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper")
    save_whisper(path, multilingual=True)
    return path


@pytest.fixture(scope="module")
def clips(synthesize_speech):
    return [synthesize_speech(seconds, seed=seed) for seed, seconds in enumerate((1.0, 2.9, 0.3, 7.5, 0.02))]


LANGUAGES = ["en", "fr", "en", "fr", "fr"]


def greedy_by_hand(transcriber, clip, language: str) -> str:
    """The most likely token at a time, each from a whole forward pass."""
    model, processor = transcriber.model, transcriber.processor
    features = processor.feature_extractor(clip, sampling_rate=16000, return_tensors="pt").input_features
    prompt = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
    ids = processor.tokenizer.convert_tokens_to_ids(prompt)
    with torch.no_grad():
        # The limit of length does not count the prompt.
        while len(ids) < len(prompt) + model.generation_config.max_length and ids[-1] != model.config.eos_token_id:
            ids.append(model(features, decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_transcripts_are_greedy_and_in_the_language_given(folder, clips):
    transcriber = load_transcriber(folder)
    for clip in (clips[0], clips[1], clips[2]):
        texts = [transcriber([clip], 16000, [language])[0] for language in ("en", "fr")]
        assert texts == [greedy_by_hand(transcriber, clip, language) for language in ("en", "fr")]
        assert texts[0] != texts[1]


def test_a_batch_does_not_change_a_transcript(folder, clips):
    alone = load_transcriber(folder)
    texts = [alone([clip], 16000, [language])[0] for clip, language in zip(clips, LANGUAGES, strict=True)]
    assert len(set(texts)) == len(texts) and all(texts)  # the model hears a difference
    assert alone(clips, 16000, LANGUAGES) == texts
    for batch_size in (2, 8):
        batched = load_transcriber(folder, batch_size=batch_size)
        assert batched.batch_size == batch_size and batched(clips, 16000, LANGUAGES) == texts
    assert batched(clips[::-1], 16000, LANGUAGES[::-1]) == texts[::-1]


def test_long_clips_are_transcribed_window_by_window(folder, clips):
    transcriber = load_transcriber(folder)
    pieces = split_at_pauses(clips[3], max_samples=48000, search_samples=8000)
    assert len(pieces) == 3
    texts = transcriber(pieces, 16000, ["fr"] * 3)
    assert transcriber([clips[3]], 16000, ["fr"]) == [" ".join(texts)]


def test_windows_are_cut_in_pauses():
    # Noise with three silences of 100 ms; only the second and third lie where a window of 4 s may end.
    clip = np.random.default_rng(0).standard_normal(16000 * 9)
    for second in (1.0, 3.5, 6.9):
        clip[round(second * 16000) : round((second + 0.1) * 16000)] = 0
    pieces = split_at_pauses(clip, max_samples=4 * 16000, search_samples=16000)
    assert np.array_equal(np.concatenate(pieces), clip)
    ends = np.cumsum([piece.size for piece in pieces]) / 16000
    assert 3.5 < ends[0] < 3.6 and 6.9 < ends[1] < 7.0 and ends[2] == 9
    # Without a pause every window still ends in the time searched, and none is too long.
    noise = np.random.default_rng(1).uniform(0.5, 1, size=16000 * 10)
    sizes = [piece.size for piece in split_at_pauses(noise, max_samples=16000, search_samples=1600)]
    assert sum(sizes) == noise.size and all(14400 <= size <= 16000 for size in sizes[:-1]) and sizes[-1] <= 16000
    assert [piece.size for piece in split_at_pauses(noise[:480000])] == [noise.size]


def test_a_model_of_english_only(tmp_path, clips):
    save_whisper(tmp_path, multilingual=False)
    transcriber = WhisperTranscriber.from_pretrained(tmp_path)
    assert transcriber(clips[:1], 16000, ["en"])[0]
    with pytest.raises(ValueError, match="`languages`: this model is for English only, got 'fr'"):
        transcriber(clips[:1], 16000, ["fr"])


def test_ctc_models(tmp_path, synthesize_speech):
    torch.manual_seed(0)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDE"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    processor = Wav2Vec2Processor(
        feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=False),
        tokenizer=Wav2Vec2CTCTokenizer(tmp_path / "vocab.json"),
    )
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.5,
        vocab_size=len(letters),
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    transcriber = load_transcriber(tmp_path, batch_size=4)
    assert isinstance(transcriber, CTCTranscriber)

    clip, long = synthesize_speech(1.5, seed=1), np.tile(synthesize_speech(2, seed=2), 16)
    with torch.no_grad():
        inputs = processor(clip, sampling_rate=16000, return_tensors="pt").input_values
        best = transcriber.recognizer.model(inputs).logits[0].argmax(-1).tolist()
    kept = [token for token, before in zip(best, [None, *best], strict=False) if token != before and token != 0]
    text = "".join(letters[token] for token in kept).replace("|", " ").strip().lower()
    assert text and transcriber([clip], 16000, ["en"]) == [text]
    first, second = transcriber([clip, long], 16000, ["en", "en"])
    assert first == transcriber([clip], 16000, ["en"])[0]
    assert second == " ".join(transcriber(split_at_pauses(long), 16000, ["en", "en"]))


def test_bad_input(folder, clips):
    transcriber = load_transcriber(folder)
    with pytest.raises(ValueError, match=r"`waveforms\[1\]` is silent"):
        transcriber([clips[0], np.zeros(16000)], 16000, ["en", "en"])
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000, got 8000"):
        transcriber(clips, 8000, LANGUAGES)
    with pytest.raises(ValueError, match="`languages` must be a list with one code a clip"):
        transcriber(clips[:2], 16000, "en")
    with pytest.raises(ValueError, match="`languages` must be a list with one code a clip"):
        transcriber(clips[:2], 16000, ["en"])
    with pytest.raises(ValueError, match="`languages`: this model knows no language 'de'"):
        transcriber(clips[:1], 16000, ["de"])
    with pytest.raises(ValueError, match="`batch_size` must be positive, got 0"):
        load_transcriber(folder, batch_size=0)
    assert transcriber([], 16000, []) == []
