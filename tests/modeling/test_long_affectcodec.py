"""Windows against the whole recording: equal where a result depends on a limited stretch, counted where it does not."""

import pytest
import torch
from test_streaming_affectcodec import assert_same_codes, noise
from tiny import tiny_model

from hf_affectcodec.modeling.long_affectcodec import decoder_context, encoder_context


@pytest.fixture(scope="module")
def recording():
    return noise(2, 16000 * 4 + 123)


def rows(model, waveform, **options):
    with torch.no_grad():
        whole, parts = model.encode(waveform).audio_codes, model.encode_long(waveform, **options).audio_codes
        assert parts.shape == whole.shape
        options.pop("num_quantizers", None)
        audio, audio_parts = model.decode(whole).audio_values, model.decode_long(whole, **options).audio_values
        assert audio_parts.shape == audio.shape
    return whole, parts, audio, audio_parts


@pytest.mark.parametrize("chunk_seconds", [0.02, 0.5, 1.37, 100.0])
def test_istft_equals_the_whole(recording, chunk_seconds):
    model = tiny_model("istft", guidance_sources=())
    whole, parts, audio, audio_parts = rows(model, recording, chunk_seconds=chunk_seconds)
    assert whole.unique().numel() > 30 and torch.equal(parts, whole)
    torch.testing.assert_close(audio_parts, audio, rtol=0, atol=1e-5)


def test_the_context_is_needed(recording):
    """With less than the context that the model states, something differs."""
    model = tiny_model("istft", guidance_sources=())
    # 2 blocks of kernel 7, and 352 samples of the widest spectrum or 480 of the inverse STFT: two frames.
    assert (encoder_context(model), decoder_context(model)) == (2 * 3 + 2, 2 * 3 + 2)
    whole, parts, audio, audio_parts = rows(model, recording, chunk_seconds=0.2, context_seconds=0.0)
    assert not torch.equal(parts, whole) and float((audio_parts - audio).abs().max()) > 1e-3
    errors = {}
    for context in (2, 4, 8):
        shorter = model.decode_long(whole, chunk_seconds=0.2, context_seconds=context / 50).audio_values
        errors[context] = float((shorter - audio).abs().max())
    assert errors[2] > 10 * errors[4] > 1e-5 > 10 * errors[8], errors


@pytest.mark.parametrize("backbone", ["seanet", "istft"])
def test_causal_equals_the_whole(recording, backbone):
    model = tiny_model(backbone, causal=True, self_guidance=True, self_guidance_hidden_size=8)
    whole, parts, audio, audio_parts = rows(model, recording, chunk_seconds=0.7)
    assert_same_codes(model, recording, whole, parts)
    torch.testing.assert_close(audio_parts, audio, rtol=0, atol=1e-5)


def test_lstms_differ_little(recording):
    """A BiLSTM sees all of the recording; with two seconds of it on either side few codes differ, with none many."""
    model = tiny_model("seanet", guidance_sources=())
    shares = []
    for context_seconds in (0.0, 1.0):
        whole, parts, _, _ = rows(model, recording, chunk_seconds=0.5, context_seconds=context_seconds)
        shares.append(float((whole != parts).float().mean()))
    assert shares[0] > 0.01 and shares[1] < 0.1 * shares[0]


def test_what_is_refused(recording):
    model = tiny_model("istft", guidance_sources=())
    for call, options, name in (
        (lambda **o: model.encode_long(recording, **o), {"chunk_seconds": 0.001}, "chunk_seconds"),
        (lambda **o: model.encode_long(recording, **o), {"context_seconds": -1.0}, "context_seconds"),
        (lambda **o: model.encode_long(recording, **o), {"num_quantizers": 9}, "num_quantizers"),
        (lambda **o: model.encode_long(recording[0], **o), {}, "input_values"),
        (lambda **o: model.decode_long(torch.zeros(1, 8, dtype=torch.long), **o), {}, "audio_codes"),
    ):
        with pytest.raises(ValueError, match=name):
            call(**options)
