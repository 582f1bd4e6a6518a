import math

import numpy as np
import pytest
import torch
from tiny import tiny_model
from transformers import (
    DacConfig,
    DacFeatureExtractor,
    DacModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    HubertConfig,
    MimiConfig,
    MimiModel,
    XcodecConfig,
    XcodecModel,
)

from hf_affectcodec import AffectCodecFeatureExtractor
from hf_affectcodec.benchmarks.codecs import (
    AudioTokenizationCodec,
    Original,
    PyAVCodec,
    fingerprint,
    load_speechtokenizer,
)
from hf_affectcodec.benchmarks.speed import build_peer
from hf_affectcodec.metrics.alignment import estimate_lag
from hf_affectcodec.metrics.pesq import pesq


@pytest.mark.parametrize("name", ["opus-24", "mp3-32", "aac-32"])
def test_delay_is_taken_out_and_length_kept(name, synthesize_speech):
    clip = synthesize_speech(2.0)
    decoded, bits = PyAVCodec.from_name(name)(clip)
    assert decoded.shape == clip.shape
    assert decoded.dtype == np.float32
    lag, correlation = estimate_lag(clip, decoded, 16000)
    assert abs(lag) <= 5  # samples: what is left is the phase of the codec's filters
    assert correlation > 0.9
    nominal = float(name.split("-")[1])
    assert bits % 8 == 0
    assert bits / 2.0 / 1000 == pytest.approx(nominal, rel=0.3)


@pytest.mark.parametrize("name", ["opus-6", "mp3-8", "aac-12"])
@pytest.mark.parametrize("num_samples", [1, 319, 320, 1000, 5001])
def test_any_length(name, num_samples, speech):
    decoded, bits = PyAVCodec.from_name(name)(speech[2000 : 2000 + num_samples])
    assert decoded.shape == (num_samples,)
    assert np.isfinite(decoded).all()
    assert bits > 0


def test_bits_are_those_of_the_packets(speech):
    codec = PyAVCodec("opus", 8000)
    packets, _ = codec._encode(speech)
    assert codec(speech)[1] == 8 * sum(len(bytes(packet)) for packet in packets)
    assert codec(speech)[1] == PyAVCodec("opus", 8000)(speech)[1]


def test_more_bits_are_better(synthesize_speech):
    clip = synthesize_speech(2.0)
    values = [pesq(clip, PyAVCodec.from_name(name)(clip)[0], 16000) for name in ("opus-6", "opus-12", "opus-32")]
    assert values[0] < values[1] < values[2]
    assert pesq(clip, PyAVCodec.from_name("mp3-8")(clip)[0], 16000) < values[2]


def test_names():
    codec = PyAVCodec.from_name("aac-12.5")
    assert (codec.codec, codec.bitrate, codec.name) == ("aac", 12500, "aac-12.5")
    assert PyAVCodec("opus", 6000).name == "opus-6"
    assert PyAVCodec("opus", 6000).fingerprint != PyAVCodec("opus", 8000).fingerprint
    for name in ("opus", "flac-8", "opus-", "opus-6k"):
        with pytest.raises(ValueError, match="`name` must be one of"):
            PyAVCodec.from_name(name)
    with pytest.raises(ValueError, match="`codec` must be one of"):
        PyAVCodec("vorbis", 8000)
    with pytest.raises(ValueError, match="`bitrate` must be positive"):
        PyAVCodec("opus", 0)


def test_original_is_the_clip(speech):
    decoded, bits = Original()(speech)
    np.testing.assert_array_equal(decoded, speech)
    assert bits == 16 * speech.size


@pytest.fixture(scope="module")
def affectcodec():
    return AudioTokenizationCodec(tiny_model(), AffectCodecFeatureExtractor(), "tiny")


@pytest.mark.parametrize("num_samples", [16000, 16001, 6399])
def test_affectcodec_is_wrapped(affectcodec, num_samples, speech):
    clip = speech[:num_samples]
    decoded, bits = affectcodec(clip)
    num_frames = math.ceil(num_samples / 320)
    assert bits == num_frames * 8 * 6  # 8 codebooks of 64
    assert decoded.shape == clip.shape
    padded = torch.zeros(1, 1, num_frames * 320)
    padded[0, 0, :num_samples] = torch.from_numpy(clip)
    mask = (torch.arange(num_frames * 320) < num_samples)[None]
    with torch.no_grad():
        codes = affectcodec.model.encode(padded, padding_mask=mask).audio_codes
        expected = affectcodec.model.decode(codes).audio_values[0, 0, :num_samples]
    np.testing.assert_allclose(decoded, expected.numpy(), atol=1e-6)


def test_too_short_a_clip_is_a_value_error(affectcodec, speech):
    with pytest.raises(ValueError, match="fewer than one frame"):
        affectcodec(speech[:100])


def test_models_at_other_rates_are_resampled(speech):
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        upsampling_ratios=[8, 5, 4, 2],
        n_codebooks=3,
        codebook_size=16,
        sampling_rate=24000,
    )
    extractor = DacFeatureExtractor(sampling_rate=24000, hop_length=320)
    codec = AudioTokenizationCodec(DacModel(config), extractor, "dac")
    decoded, bits = codec(speech)
    assert decoded.shape == speech.shape
    assert bits == math.ceil(36000 / 320) * 3 * 4


def test_a_wrong_rate_is_not_papered_over(affectcodec, speech):
    class Half(torch.nn.Module):
        config = affectcodec.model.config
        encode = affectcodec.model.encode

        def decode(self, audio_codes):
            output = affectcodec.model.decode(audio_codes)
            output.audio_values = output.audio_values[..., ::2]
            return output

    codec = AudioTokenizationCodec(Half(), AffectCodecFeatureExtractor(), "half")
    with pytest.raises(ValueError, match="`model`: 12000 samples came back for 24000"):
        codec(speech)


def test_fingerprint_follows_weights_and_configuration():
    model = tiny_model()
    before = fingerprint(model)
    assert fingerprint(tiny_model()) == before
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1e-6
    assert fingerprint(model) != before
    other = tiny_model()
    other.config.self_guidance = True
    assert fingerprint(other) != before


def test_from_pretrained(tmp_path, affectcodec, speech):
    affectcodec.model.save_pretrained(tmp_path)
    affectcodec.feature_extractor.save_pretrained(tmp_path)
    loaded = AudioTokenizationCodec.from_pretrained(str(tmp_path), "tiny")
    decoded, bits = loaded(speech)
    np.testing.assert_array_equal(decoded, affectcodec(speech)[0])
    assert bits == affectcodec(speech)[1]


def test_models_without_a_codebook_size_are_refused():
    class Model(torch.nn.Linear):
        config = object()

    with pytest.raises(ValueError, match="`model`: object has no `codebook_size`"):
        AudioTokenizationCodec(Model(1, 1), None, "linear")


# ----- other families, with random weights


def encodec():
    config = EncodecConfig(
        num_filters=4,
        hidden_size=16,
        num_lstm_layers=1,
        codebook_size=64,
        upsampling_ratios=[8, 5, 4, 2],
        target_bandwidths=[0.9, 1.8],  # 75 frames of 6 bits: 2 and 4 codebooks
    )
    return EncodecModel(config), EncodecFeatureExtractor(sampling_rate=24000), {"bandwidth": 1.8}, (24000, 320, 4, 6)


def dac():
    config = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=32,
        downsampling_ratios=[2, 4, 5, 8],
        n_codebooks=3,
        codebook_size=64,
        sampling_rate=16000,
        hop_length=512,  # as in the configuration of a real checkpoint, whose frames have 320 samples
    )
    return DacModel(config), DacFeatureExtractor(sampling_rate=16000, hop_length=320), {}, (16000, 320, 3, 6)


def mimi():
    config = MimiConfig(
        num_filters=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
        codebook_size=64,
        codebook_dim=8,
        vector_quantization_hidden_dimension=8,
        num_quantizers=4,
        upsample_groups=16,
    )
    extractor = EncodecFeatureExtractor(sampling_rate=24000)
    return MimiModel(config), extractor, {"num_quantizers": 3}, (24000, 1920, 3, 6)


def xcodec():
    acoustic = DacConfig(
        encoder_hidden_size=4,
        decoder_hidden_size=64,
        downsampling_ratios=[8, 5, 4, 2],
        n_codebooks=2,
        codebook_size=16,
    )
    semantic = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    config = XcodecConfig(
        acoustic_model_config=acoustic.to_dict(),
        semantic_model_config=semantic.to_dict(),
        codebook_size=16,
        codebook_dim=96,
        target_bandwidths=[0.2, 0.4],
    )
    extractor = DacFeatureExtractor(sampling_rate=16000, hop_length=320)
    return XcodecModel(config), extractor, {"bandwidth": 0.4}, (16000, 320, 2, 4)


@pytest.mark.parametrize("family", [encodec, dac, mimi, xcodec], ids=lambda family: family.__name__)
def test_families_of_transformers(family, tmp_path, speech):
    torch.manual_seed(0)
    model, extractor, arguments, (rate, hop, num_quantizers, bits_per_code) = family()
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    codec = AudioTokenizationCodec.from_pretrained(str(tmp_path), "codec", encode_arguments=arguments)
    assert (codec.sampling_rate, codec.hop_length) == (rate, hop)
    decoded, bits = codec(speech)
    assert decoded.shape == speech.shape and decoded.dtype == np.float32 and np.isfinite(decoded).all()
    num_frames = math.ceil(speech.size * rate / 16000 / hop)
    assert bits == num_frames * num_quantizers * bits_per_code
    codes = codec.encode(np.zeros(rate, dtype=np.float32))
    assert codes.shape == (num_quantizers, math.ceil(rate / hop)) and codes.dtype == np.int64
    with pytest.raises(ValueError, match="`encode_arguments`: .* takes no 'kbps'"):
        AudioTokenizationCodec(model, extractor, "codec", encode_arguments={"kbps": 4})


def test_encodec_is_what_transformers_decodes(speech):
    torch.manual_seed(0)
    model, _, _, _ = encodec()
    extractor = EncodecFeatureExtractor(sampling_rate=16000)  # no resampling, so that outputs compare
    decoded, _ = AudioTokenizationCodec(model, extractor, "encodec", encode_arguments={"bandwidth": 1.8})(speech)
    with torch.no_grad():
        expected = model(torch.from_numpy(speech)[None, None], bandwidth=1.8).audio_values[0, 0]
    np.testing.assert_allclose(decoded, expected[: speech.size].numpy(), atol=1e-6)
    scaled = EncodecModel(EncodecConfig(**{**model.config.to_dict(), "normalize": True}))
    with pytest.raises(ValueError, match="decodes from scales too"):
        AudioTokenizationCodec(scaled, extractor, "encodec")(speech)


def test_speechtokenizer_is_its_package(tmp_path, speech):
    theirs = build_peer(4)
    torch.save(theirs.state_dict(), tmp_path / "SpeechTokenizer.pt")
    codec = load_speechtokenizer(tmp_path / "SpeechTokenizer.pt", num_filters=4)
    clip = speech[:16000]
    decoded, bits = codec(clip)
    with torch.no_grad():
        expected = theirs.decode(theirs.encode(torch.from_numpy(clip)[None, None]))[0, 0]
    np.testing.assert_allclose(decoded, expected.numpy(), atol=1e-5)
    assert bits == 50 * 8 * 10
