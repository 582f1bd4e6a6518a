"""`affectcodec speak`: a text and a recording to speech."""

import io
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_model
from tiny_tts import tiny_tts

from hf_affectcodec import AffectCodecFeatureExtractor, AffectCodecTTSProcessor
from hf_affectcodec.audio import load_audio
from hf_affectcodec.modeling.sampling_affectcodec_tts import AffectCodecTTSCodeStreamer
from hf_affectcodec.speak import PAUSE_SECONDS, cut_prompt, join_pieces, load_tts, main, speak, speak_live


FRAME, RATE = 320, 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tts"
    tiny_tts(text_vocab_size=256, min_prompt_frames=25, max_prompt_frames=150).save_pretrained(folder)
    AffectCodecTTSProcessor(AffectCodecFeatureExtractor()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def loaded(folder):
    return load_tts(folder, "cpu")


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.wav"
    soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal(20000), RATE)
    return path


def command(capsys, *arguments):
    """Status, and the lines of stderr that are not a progress bar's."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        status = error.code
    lines = [line.rsplit("\r", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    return status, [line for line in lines if line.startswith("affectcodec")]


def test_a_short_text_is_what_generate_says(loaded, prompt):
    model, processor = loaded
    waveform = load_audio(prompt, RATE)
    spoken = speak(model, processor, "oh yes", waveform, "no", seed=3, max_new_frames=20)
    inputs = processor("oh yes", prompt=waveform, prompt_text="no", sampling_rate=RATE)
    expected = model.generate(**inputs, seed=3, max_new_frames=20)
    assert torch.equal(spoken.audio[0], expected.audio[0])
    assert (spoken.pieces, spoken.stop_reasons, spoken.prompt_text) == (["oh yes"], expected.stop_reasons, "no")


def test_a_long_text_is_spoken_piece_by_piece(loaded):
    model, processor = loaded
    limits = {"seed": 0, "max_new_frames": 4}
    spoken = speak(model, processor, "Oh no. Oh yes, why not? Go on!", max_characters=16, **limits)
    assert spoken.pieces == ["Oh no.", "Oh yes, why not?", "Go on!"] and len(spoken.stop_reasons) == 3
    pause = torch.zeros(int(PAUSE_SECONDS * RATE))
    parts = [speak(model, processor, piece, **limits).audio[0] for piece in spoken.pieces]
    assert torch.equal(spoken.audio[0], torch.cat((parts[0], pause, parts[1], pause, parts[2])))


def test_live_is_the_same_speech_in_pieces(loaded, prompt):
    model, processor = loaded
    waveform = load_audio(prompt, RATE)
    options = {"max_characters": 16, "seed": 2, "max_new_frames": 12}
    expected = speak(model, processor, "Oh no. Oh yes, why not? Go on!", waveform, "no", **options)
    seen = list(
        speak_live(model, processor, "Oh no. Oh yes, why not? Go on!", waveform, "no", interval=0.005, **options)
    )
    done = [progress for progress in seen if progress.audio is not None]
    assert [progress.index for progress in done] == [0, 1, 2] and seen[0].pieces == expected.pieces
    assert [progress.stop_reason for progress in done] == expected.stop_reasons
    assert torch.equal(join_pieces([progress.audio for progress in done], RATE), expected.audio)
    # On the way the seconds grow within a piece, and end at its length.
    for index, piece in enumerate(done):
        seconds = [progress.seconds for progress in seen if progress.index == index]
        assert seconds == sorted(seconds) and seconds[-1] == piece.audio.shape[-1] / RATE
    assert any(progress.audio is None for progress in seen)


def test_live_stops_when_it_is_left(loaded, monkeypatch):
    """By the frames that the model draws: after the close none but the one under way, of a thousand."""
    model, processor = loaded
    drawn = []
    put = AffectCodecTTSCodeStreamer.put

    def counted(self, value):
        drawn.append(value)
        put(self, value)

    monkeypatch.setattr(AffectCodecTTSCodeStreamer, "put", counted)
    live = speak_live(model, processor, "Go on.", interval=0.05, seed=0, max_new_frames=1000, min_new_frames=1000)
    assert next(live).audio is None
    before = len(drawn)
    live.close()
    after = len(drawn)
    assert after < 900 and not [thread for thread in threading.enumerate() if thread.name.startswith("speak_live")]
    time.sleep(0.1)
    assert len(drawn) == after <= before + 50


def test_live_says_what_is_wrong_before_it_speaks(loaded, monkeypatch):
    model, processor = loaded
    monkeypatch.setattr(type(model), "generate", lambda *a, **k: pytest.fail("spoke"))
    with pytest.raises(ValueError, match="nothing to speak"):
        next(speak_live(model, processor, "Go on, my dear. ?!", max_characters=16))


def test_live_passes_on_what_generate_refuses(loaded):
    with pytest.raises(ValueError, match="`max_new_frames` must allow at least one frame"):
        list(speak_live(*loaded, "Go on.", max_new_frames=0))


def test_ten_thousand_characters_are_all_checked_before_the_first_is_spoken(loaded, monkeypatch):
    model, processor = loaded
    monkeypatch.setattr(type(model), "generate", lambda *a, **k: pytest.fail("spoke"))
    with pytest.raises(ValueError, match="nothing to speak"):
        speak(model, processor, "Go on, my dear. " * 620 + "?! " * 100)


def test_a_long_prompt_is_cut_at_a_pause_and_heard(loaded):
    model, processor = loaded
    waveform = torch.from_numpy(0.2 * np.random.default_rng(0).standard_normal((1, 5 * RATE))).float()
    waveform[:, int(2.5 * RATE) : int(2.6 * RATE)] = 0.0
    heard = []

    def transcribe(waveforms, sampling_rate, languages):
        heard.append((waveforms[0], sampling_rate, languages))
        return ["no no"]

    spoken = speak(
        model, processor, "yes", waveform, transcribe=transcribe, language="en-gb", seed=0, max_new_frames=5
    )
    ((cut, rate, languages),) = heard
    assert spoken.prompt_text == "no no" and rate == RATE and languages == ["en"]
    assert 2.5 * RATE <= len(cut) <= 2.6 * RATE and np.array_equal(cut, waveform[0, : len(cut)].numpy())
    given = speak(
        model, processor, "yes", waveform[:, : len(cut)], "no no", language="en-gb", seed=0, max_new_frames=5
    )
    assert torch.equal(spoken.audio, given.audio)


def test_a_prompt_that_fits_is_not_cut():
    waveform = torch.randn(3 * RATE)
    assert torch.equal(cut_prompt(waveform, 3.0, RATE), waveform)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"text": " "}, "`text` is empty"),
        ({"text": "?!"}, "nothing to speak"),
        ({"prompt": torch.ones(1, RATE)}, "`prompt_text` .* must be given with `prompt`"),
        ({"prompt_text": "no"}, "without a `prompt`"),
        ({"emotion": "angry"}, "`emotion` must be one of"),
        ({"prompt": torch.ones(1, RATE), "transcribe": lambda *_: [" "]}, "no words are heard"),
        ({"prompt": torch.ones(1, 4 * RATE), "prompt_text": "no"}, r"`prompt\[0\]` is 4.00 s long"),
        ({"prompt": torch.ones(1, 4000), "prompt_text": "no"}, r"`prompt\[0\]` is 0.25 s long"),
        ({"prompt": torch.zeros(1, RATE), "prompt_text": "no"}, r"`prompt\[0\]` is silent"),
    ],
)
def test_bad_input_is_named(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        speak(*loaded, **{"text": "yes", **arguments})


def test_command_writes_what_speak_says(folder, loaded, prompt, tmp_path, capsys):
    out = tmp_path / "out.wav"
    arguments = [folder, "--prompt", prompt, "--prompt-text", "no", "-o", out, "--seed", 5, "--max-seconds", 0.2]
    arguments = ["oh yes", "--device", "cpu", "--model", *arguments]
    sampling = ["--temperature", 0.5, "--top-k", 20, "--guidance-scale", 2, "--prompt-guidance", 1.5]
    status, lines = command(capsys, *arguments, *sampling)
    model, processor = loaded
    generate = {"seed": 5, "max_seconds": 0.2, "temperature": 0.5, "top_k": 20}
    generate |= {"guidance_scale": 2, "prompt_guidance": 1.5}
    spoken = speak(model, processor, "oh yes", load_audio(prompt, RATE), "no", **generate)
    assert status == 0 and (lines == []) == (spoken.stop_reasons == ["eos"])
    torch.testing.assert_close(load_audio(out, RATE), spoken.audio.clamp(-1, 1), rtol=0, atol=2**-15)
    status, lines = command(capsys, *arguments)
    assert status == 2 and "exists; --overwrite replaces it" in lines[0]
    status, lines = command(capsys, *arguments, "--overwrite")
    own = speak(model, processor, "oh yes", load_audio(prompt, RATE), "no", seed=5, max_seconds=0.2)
    assert status == 0
    torch.testing.assert_close(load_audio(out, RATE), own.audio.clamp(-1, 1), rtol=0, atol=2**-15)
    status, lines = command(capsys, *arguments, "--overwrite", "--temperature", 0)
    greedy = speak(model, processor, "oh yes", load_audio(prompt, RATE), "no", do_sample=False, max_seconds=0.2)
    assert status == 0
    torch.testing.assert_close(load_audio(out, RATE), greedy.audio.clamp(-1, 1), rtol=0, atol=2**-15)


def test_command_reads_standard_input_and_says_where_the_limit_ended_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why not?\n"))
    arguments = ["-", "--model", folder, "-o", tmp_path / "out.flac", "--max-seconds", 0.02, "--device", "cpu"]
    status, lines = command(capsys, *arguments)
    assert status == 0 and load_audio(tmp_path / "out.flac", RATE).shape == (1, FRAME)
    assert lines == ["affectcodec: the limit of seconds ended 'Why not?' before the model did"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "no/such/model"], "`model`"),
        (["--model", "{codec}"], "is of type 'affectcodec', not 'affectcodec_tts'"),
        (["--model", "{tts}", "--prompt", "missing.wav", "--prompt-text", "no"], "missing.wav"),
        (["--model", "{tts}", "--language", "xx"], "`language`"),
        (["--model", "{tts}", "--temperature", "-1"], "--temperature"),
        (["--model", "{tts}", "--device", "nowhere"], "`device` 'nowhere' cannot be used"),
        (["--model", "{tts}", "--max-seconds", "0.001"], "`max_seconds` must allow at least one frame"),
        (["--model", "{tts}", "-o", "out.xyz"], "`OUT` must end in one of"),
        (["--model", "{tts}", "-o", "{tmp}/no/out.wav"], "is no folder"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(folder, tmp_path, capsys, arguments, message):
    tiny_model(guidance_sources=(), alignment_feature_size=None).save_pretrained(tmp_path / "codec")
    names = {"codec": tmp_path / "codec", "tts": folder, "tmp": tmp_path}
    arguments = [argument.format(**names) for argument in arguments]
    output = [] if "-o" in arguments else ["-o", tmp_path / "out.wav"]
    status, lines = command(capsys, "yes", *arguments, *output)
    assert status == 2 and len(lines) == 1 and lines[0].startswith("affectcodec: error: ")
    assert message in lines[0]
    assert not (tmp_path / "out.wav").exists()
