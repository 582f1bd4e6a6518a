"""Text to phonemes to ids, prompts, and the pipeline that runs on them."""

import hashlib
import json
import sys
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tts import tiny_tts
from transformers import AutoProcessor, pipeline

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.modeling import phonemes_affectcodec_tts as front_end
from hf_affectcodec.modeling.phonemes_affectcodec_tts import SYMBOLS, normalize_text, phonemize, split_text


FRAME = 320


def processor(**changes) -> AffectCodecTTSProcessor:
    return AffectCodecTTSProcessor(AffectCodecFeatureExtractor(), **changes)


def noise(seconds=1.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16000)).astype(np.float32)


# Vocabulary


def test_ids_by_hand():
    text = "həlˈoʊ, wˈɜːld!"
    inputs = processor()(phonemes=text)
    # 0 is padding, 1 what is unknown.
    assert inputs["input_ids"].tolist() == [[2 + SYMBOLS.index(symbol) for symbol in text]]
    assert inputs["attention_mask"].tolist() == [[1] * len(text)]
    assert processor().decode(inputs["input_ids"][0]) == text


def test_vocabulary_is_fixed():
    """Trained embeddings are rows of it: what is already there keeps its place."""
    assert len(set(SYMBOLS)) == len(SYMBOLS) == 250 and all(len(symbol) == 1 for symbol in SYMBOLS)
    assert hashlib.sha256("".join(SYMBOLS).encode()).hexdigest()[:16] == "0b8f03fb0cf12d5d"


def test_batch_is_padded_on_the_left_and_each_row_is_the_row_alone():
    texts = ["ab", "abcdefg", "c d"]
    both = processor()(phonemes=texts)
    assert both["input_ids"].shape == (3, 7)
    for row, text in enumerate(texts):
        alone = processor()(phonemes=text)["input_ids"][0]
        assert both["input_ids"][row, 7 - len(text) :].tolist() == alone.tolist()
        assert both["input_ids"][row, : 7 - len(text)].tolist() == [0] * (7 - len(text))
        assert both["attention_mask"][row].tolist() == [0] * (7 - len(text)) + [1] * len(text)
    assert processor().batch_decode(both["input_ids"]) == texts


def test_unknown_symbols_are_left_out_and_named(monkeypatch):
    warned = []
    monkeypatch.setattr(front_end.logger, "warning", warned.append)
    inputs = processor()(phonemes="aЖb")
    assert processor().decode(inputs["input_ids"][0]) == "ab"
    assert len(warned) == 1 and "'Ж' (U+0416)" in warned[0]


def test_composed_letters_are_taken_apart():
    assert (
        processor()(phonemes="mɑ̃ç")["input_ids"].tolist()
        == processor()(phonemes="mɑ\u0303c\u0327")["input_ids"].tolist()
    )


# Front end


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("en", "hello world", "həlˈoʊ wˈɜːld"),
        ("en", "Stop! Why, he said?", "stˈɑːp! wˈaɪ, hiː sˈɛd?"),
        ("en", "It cost $2.50.", "ɪt kˈɔst tˈuː dˈɑːlɚz fˈɪfti sˈɛnts."),
        ("en-gb", "hello world", "həlˈəʊ wˈɜːld"),
        ("fr", "l'été", "letˈe"),
        ("es", "¿qué hora es?", "¿kˈe ˈoɾa ˈes?"),
        ("it", "perché?", "perkˈe?"),
        ("ru", "год", "ɡˈot"),
        ("de", "Müller", "mˈʏlɜ"),
        ("cmn", "你好。", "ni2χˈɑu2."),
    ],
)
def test_phonemes_are_what_dictionaries_say(language, text, expected):
    assert phonemize(text, language) == unicodedata.normalize("NFD", expected)


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("en", "$12.50", "twelve dollars fifty cents"),
        ("en", "£3", "three pounds sterling"),
        ("en", "1,234,567 people", "1234567 people"),
        ("en", "at 5:30 p.m. sharp", "at 5 30 pm sharp"),
        ("en", "Dr. Smith vs. Mrs. Jones", "Dr Smith vs Mrs Jones"),
        ("en", "He is a Dr.", "He is a Dr."),
        ("en", "the U.S.A. today", "the USA today"),
        ("en", "“Go!” – now…", "“Go!” — now…"),
        ("en", "no -- yes", "no — yes"),
        ("en", "it\u2019s\u00a0a\ttest \U0001f600", "it's a test"),
        ("en", "pi is 3.14159", "pi is 3.14159"),
        ("en", "$1.5 million, $2", "1.5 million dollars, two dollars"),
        ("en", "€1.234 a 20 °C", "€1.234 a 20 °C"),
        ("en", "from 5:00 to 17:45", "from 5 to 17 45"),
        ("en", "$1,234.50", "one thousand, two hundred and thirty-four dollars fifty cents"),
        ("fr", "12,50 €", "douze euros cinquante centimes"),
        ("fr", "1 234 567", "1234567"),
        ("de", "1.234 Leute", "1234 Leute"),
        ("es", "25 %", "25 %"),
        ("ru", "£3", "3 £"),
        ("zh", "你好，世界。", "你好,世界."),
    ],
)
def test_normalisation_by_hand(language, text, expected):
    assert normalize_text(text, language) == expected


def test_languages_need_no_symbol_that_the_vocabulary_lacks(monkeypatch):
    warned = []
    monkeypatch.setattr(front_end.logger, "warning", warned.append)
    numbers = " ".join(map(str, [*range(1, 22), 30, 47, 58, 69, 76, 1984]))
    for language in (
        "en",
        "en-gb",
        "fr",
        "es",
        "it",
        "ru",
        "de",
        "pt",
        "nl",
        "pl",
        "sv",
        "tr",
        "cmn",
        "ja",
        "hi",
        "ar",
        "vi",
    ):
        phonemize(numbers, language)
    assert warned == []


@pytest.mark.parametrize("text", ["", " \n", "?!...", "—", "🙂"])
def test_nothing_to_speak(text):
    with pytest.raises(ValueError, match=r"`text\[1\]`"):
        processor()(["yes", text])


@pytest.mark.parametrize("language", ["xx", "kl", "fo"])
def test_unknown_language(language):
    with pytest.raises(ValueError, match="`language`"):
        processor()("yes", language=language)


def test_missing_extra_is_named(monkeypatch):
    front_end._espeak.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"hf-affectcodec\[tts\]") as caught:
        processor()("yes")
    assert "\n" not in str(caught.value)
    # Phonemes of another front end need no extra.
    processor()(phonemes="jˈɛs")


def test_ten_thousand_characters_are_refused_and_can_be_split():
    text = "To be, or not to be, that is the question. " * 240
    with pytest.raises(ValueError, match=r"`text\[0\]` has \d+ phonemes, more than 600; `split_text`"):
        processor()(text)
    pieces = split_text(text)
    assert all(piece.endswith("question.") for piece in pieces) and len(pieces) == 60
    assert processor()(pieces[:3])["input_ids"].shape[0] == 3


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab .,!?;。 \n…)", max_size=200), st.integers(1, 30))
def test_splitting_loses_nothing(text, limit):
    pieces = split_text(text, limit)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(0 < len(piece) <= limit and piece == piece.strip() for piece in pieces)


def test_where_a_text_is_split():
    text = "One two. Three, four five six"
    assert split_text(text, 14) == ["One two.", "Three,", "four five six"]
    assert split_text(text, 12) == ["One two.", "Three,", "four five", "six"]
    assert split_text("abcdefgh", 3) == ["abc", "def", "gh"]
    assert split_text("it costs 1,000 now", 12) == ["it costs", "1,000 now"]


# Prompts' words


def test_symbols_of_the_prompts_words_are_told_from_those_to_be_spoken():
    """The space between belongs to the prompt, an emotion to what is spoken, padding to nothing."""
    with_emotions = processor(emotions=["angry", "calm"])
    options = {"prompt": [noise(), noise(0.8)], "prompt_phonemes": ["ab", "c"], "sampling_rate": 16000}
    inputs = with_emotions(phonemes=["cab", "ba"], **options)
    assert inputs["prompt_text_mask"].tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    inputs = with_emotions(phonemes=["cab", "ba"], emotion="calm", **options)
    assert inputs["emotion_mask"].tolist() == [[1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    assert inputs["prompt_text_mask"].tolist() == [[0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0]]
    own = inputs["input_ids"][0][(inputs["attention_mask"][0] == 1) & (inputs["prompt_text_mask"][0] == 0)]
    assert own.tolist() == with_emotions(phonemes="cab", emotion="calm")["input_ids"][0].tolist()
    assert "prompt_text_mask" not in with_emotions(phonemes="cab")


# Emotions


def test_emotions_are_symbols_before_the_text():
    first = 2 + len(SYMBOLS)
    with_emotions = processor(emotions=["angry", "calm"])
    inputs = with_emotions(phonemes=["ab", "abc"], emotion=["calm", "angry"])
    a, b, c = (2 + SYMBOLS.index(symbol) for symbol in "abc")
    assert inputs["input_ids"].tolist() == [[0, first + 1, a, b], [first, a, b, c]]
    assert inputs["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert inputs["emotion_mask"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert with_emotions(phonemes="ab")["input_ids"].tolist() == [[a, b]]
    # The symbol cannot be written in a text.
    assert with_emotions.encode_phonemes(["<calm>"])["input_ids"][0].count(first + 1) == 0
    for emotion in ("happy", ["calm", "calm"], ""):
        with pytest.raises(ValueError, match="`emotion"):
            with_emotions(phonemes="ab", emotion=emotion)
    with pytest.raises(ValueError, match="`emotion` must be one of"):
        processor()(phonemes="ab", emotion="calm")


def test_emotions_are_saved(tmp_path):
    processor(emotions=["angry", "calm"]).save_pretrained(tmp_path)
    loaded = AffectCodecTTSProcessor.from_pretrained(tmp_path)
    assert loaded.emotions == ["angry", "calm"] and loaded.emotion_id("calm") == 3 + len(SYMBOLS)


# Prompts


def test_a_prompt_and_its_words():
    inputs = processor()(["yes", "no no"], prompt=noise(1.0), prompt_text="a b", sampling_rate=16000)
    before = phonemize("a b")
    assert processor().batch_decode(inputs["input_ids"]) == [
        f"{before} {phonemize(text)}" for text in ("yes", "no no")
    ]
    assert inputs["prompt_values"].shape == (2, 1, 16000) and inputs["prompt_padding_mask"].all()
    np.testing.assert_array_equal(inputs["prompt_values"][1, 0].numpy(), noise(1.0))


def test_a_prompt_each():
    inputs = processor()(["a", "b"], prompt=[noise(1.0), noise(0.7)], prompt_text=["c", "d"], sampling_rate=16000)
    assert inputs["prompt_padding_mask"].sum(-1).tolist() == [16000, 11200]
    assert not inputs["prompt_values"][1, 0, 11200:].any()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "exactly one of `text` and `phonemes`"),
        ({"text": "a", "phonemes": "a"}, "exactly one of `text` and `phonemes`"),
        ({"text": []}, "`text`"),
        ({"text": ["a", 3]}, "`text`"),
        ({"text": "a", "language": ["en", "fr"]}, "`language` must be one string or 1, got 2"),
        ({"text": "a", "prompt": noise()}, "`prompt` and `prompt_text`"),
        ({"text": "a", "prompt_text": "b"}, "`prompt` and `prompt_text`"),
        ({"text": "a", "prompt": noise(), "prompt_text": "b"}, "`sampling_rate`"),
        ({"text": "a", "prompt": noise(), "prompt_text": "b", "sampling_rate": 8000}, "`sampling_rate`"),
        ({"text": "a", "prompt": noise(), "prompt_text": "", "sampling_rate": 16000}, r"`prompt_text\[0\]` is empty"),
        (
            {"text": "a", "prompt": noise(), "prompt_text": "!", "sampling_rate": 16000},
            r"`prompt_text\[0\]` holds nothing",
        ),
        ({"text": "a", "prompt": noise(0.4), "prompt_text": "b", "sampling_rate": 16000}, r"`prompt\[0\]` is 0.40 s"),
        ({"text": "a", "prompt": noise(3.1), "prompt_text": "b", "sampling_rate": 16000}, r"`prompt\[0\]` is 3.10 s"),
        (
            {"text": "a", "prompt": 1e-3 * noise(), "prompt_text": "b", "sampling_rate": 16000},
            r"`prompt\[0\]` is silent",
        ),
        (
            {"text": "a", "prompt": np.full(16000, np.nan), "prompt_text": "b", "sampling_rate": 16000},
            r"`prompt\[0\]`",
        ),
        ({"text": "a", "prompt": [noise()] * 2, "prompt_text": "b", "sampling_rate": 16000}, "`prompt` must be one"),
        ({"text": "a", "prompt": np.ones((2, 16000)), "prompt_text": "b", "sampling_rate": 16000}, r"`prompt\[0\]`"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        processor()(**arguments)
    assert "\n" not in str(caught.value)


# Saved, loaded, in a pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts")
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(folder)
    processor(language="en-gb", max_phonemes=100).save_pretrained(folder)
    return folder


def test_saved_and_loaded(folder):
    loaded = AutoProcessor.from_pretrained(folder)
    assert isinstance(loaded, AffectCodecTTSProcessor)
    assert loaded.language == "en-gb" and loaded.max_phonemes == 100
    text = ["hello there", "no!"]
    assert torch.equal(loaded(text)["input_ids"], processor(language="en-gb")(text)["input_ids"])
    assert not torch.equal(loaded(text)["input_ids"], loaded(text, language="en-us")["input_ids"])


def test_generation_config_is_shipped(folder):
    saved = json.loads((folder / "generation_config.json").read_text())
    assert saved["max_new_tokens"] == 1000 and saved["do_sample"] is True


def test_pipeline_speaks_longer_than_its_own_default(folder):
    pipe = pipeline("text-to-speech", model=str(folder))
    # A pipeline by itself stops at 256 frames, which `generate` would refuse.
    output = pipe("hello", forward_params={"seed": 0, "min_new_frames": 257})
    assert output["sampling_rate"] == 16000 and output["audio"].size >= 257 * FRAME


def test_pipeline_with_a_prompt_is_generate_with_it(folder):
    pipe = pipeline("text-to-audio", model=str(folder))
    wave, limits = noise(1.0), {"seed": 0, "max_new_frames": 12}
    inputs = pipe.processor("yes", prompt=wave, prompt_text="no", sampling_rate=16000)
    expected = pipe.model.generate(**inputs, **limits).audio[0].numpy()
    prompt = {"prompt": wave, "prompt_text": "no", "sampling_rate": 16000}
    by_processor = pipe("yes", preprocess_params=prompt, forward_params=limits)
    np.testing.assert_array_equal(by_processor["audio"].squeeze(), expected)
    codes = pipe.model.codec_model.encode(inputs["prompt_values"]).audio_codes
    by_model = pipe("no yes", forward_params={**limits, "prompt_codes": codes})
    np.testing.assert_array_equal(by_model["audio"].squeeze(), expected)
    other = pipe("yes", forward_params=limits)
    assert other["audio"].size != expected.size or not np.array_equal(other["audio"].squeeze(), expected)


def test_pipeline_takes_several_texts(folder):
    pipe = pipeline("text-to-speech", model=str(folder))
    outputs = pipe(["yes", "oh no"], forward_params={"seed": 0, "max_new_frames": 5})
    assert len(outputs) == 2 and all(output["audio"].size <= 5 * FRAME for output in outputs)
