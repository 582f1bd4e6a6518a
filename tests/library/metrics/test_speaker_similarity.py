import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

from hf_affectcodec.metrics.speaker_similarity import XVectorEncoder, speaker_anchors, speaker_similarity


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A real WavLM with x-vector head, tiny and random."""
    torch.manual_seed(0)
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.2,
        tdnn_dim=(12, 12, 12, 12, 24),
        xvector_output_dim=10,
    )
    path = tmp_path_factory.mktemp("wavlm")
    WavLMForXVector(config).save_pretrained(path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(path)
    return path


def slow_xvector(model, waveform: np.ndarray) -> np.ndarray:
    """The head frame by frame, from the frames of the WavLM inside."""
    samples = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    with torch.no_grad():
        frames = model.projector(model.wavlm(torch.from_numpy(samples).float()[None]).last_hidden_state)[0]
        for layer, kernel, dilation in zip(
            model.tdnn, model.config.tdnn_kernel, model.config.tdnn_dilation, strict=True
        ):
            reach = (kernel - 1) * dilation
            frames = torch.stack(
                [
                    layer.kernel(frames[t : t + reach + 1 : dilation].flatten()).relu()
                    for t in range(len(frames) - reach)
                ]
            )
        statistics = torch.cat([frames.mean(0), frames.std(0)])
        return model.feature_extractor(statistics).numpy()


def test_embedding_against_a_slow_head(folder, speech):
    encoder = XVectorEncoder.from_pretrained(folder)
    expected = slow_xvector(encoder.model, speech)
    embedding = encoder(speech, 16000)
    assert embedding == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert encoder.description["source"] == str(folder) and len(encoder.description["weights_sha256"]) == 64


def test_value_depends_on_the_clip_alone(folder, speech, synthesize_speech):
    encoder = XVectorEncoder.from_pretrained(folder)
    embedding = encoder(speech, 16000)
    encoder(synthesize_speech(0.7, seed=3), 16000)
    assert np.array_equal(encoder(torch.from_numpy(speech), 16000), embedding)


def test_the_shortest_clip_has_two_frames_left(folder, speech):
    encoder = XVectorEncoder.from_pretrained(folder)
    # 7 convolutions: 400 samples and a hop of 320; the time-delay layers take 4 + 4 + 6 frames of context.
    assert encoder.min_samples == 400 + 320 * (4 + 4 + 6 + 1)
    assert np.isfinite(encoder(speech[2000 : 2000 + encoder.min_samples], 16000)).all()
    with pytest.raises(ValueError, match="`waveform` must have 5200 samples or more, got 5199"):
        encoder(speech[2000 : 2000 + encoder.min_samples - 1], 16000)
    with pytest.raises(ValueError, match="`sampling_rate` must be 16000"):
        encoder(speech, 8000)


def test_a_checkpoint_without_the_head_is_refused(folder, tmp_path):
    WavLMForXVector.from_pretrained(folder).wavlm.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* weights of AutoModelForAudioXVector"):
        XVectorEncoder.from_pretrained(tmp_path)


def mean_and_peak(waveform, sampling_rate):
    return [waveform.mean(), waveform.max()]


def test_cosine_hand_worked():
    # (1, 2) and (-1, 3): 5 / sqrt(5 * 10); lengths differ, and the embeddings are not of length 1.
    first, second = [0, 1, 2], [-5, 0, -2, 3]
    assert speaker_similarity(first, second, 16000, mean_and_peak) == pytest.approx(5 / np.sqrt(50))
    assert speaker_similarity(second, first, 16000, mean_and_peak) == pytest.approx(5 / np.sqrt(50))
    assert speaker_similarity(first, first, 16000, mean_and_peak) == pytest.approx(1)


def test_what_cannot_be_compared(folder, speech):
    encoder = XVectorEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match="`degraded` is silent"):
        speaker_similarity(speech, 0 * speech, 16000, encoder)
    with pytest.raises(ValueError, match="`degraded`: `waveform` must have 5200 samples or more"):
        speaker_similarity(speech, speech[:4000], 16000, encoder)
    with pytest.raises(ValueError, match=r"`reference`: the encoder gives no embedding for it \(norm 0.0\)"):
        speaker_similarity([1, -1], speech, 16000, lambda waveform, rate: [waveform.mean()])


def test_anchors_hand_worked():
    # Directions of 0 and 60 degrees (speaker a), 90 (b), 180 (c).
    degrees = np.radians([0, 60, 90, 180])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * [[1], [2], [3], [4]]
    anchors = speaker_anchors(embeddings, ["a", "a", "b", "c"])
    # Different speakers: 90, 180, 30, 120 and 90 degrees apart. The pair of a, 60 apart, is above all but the 30.
    assert anchors.different_speakers == pytest.approx((0 - 1 + np.sqrt(3) / 2 - 1 / 2 + 0) / 5)
    assert anchors.same_speaker == pytest.approx(1 / 2)
    assert anchors.auc == pytest.approx(4 / 5)
    assert (anchors.num_different, anchors.num_same, anchors.same_clip) == (5, 1, 1)


def test_anchors_of_embeddings_without_and_with_speakers():
    rng = np.random.default_rng(0)
    speakers = np.repeat(range(20), 6)
    noise = rng.standard_normal((120, 8))
    assert speaker_anchors(noise, speakers).auc == pytest.approx(0.5, abs=0.05)
    assert speaker_anchors(noise + 20 * rng.standard_normal((20, 8))[speakers], speakers).auc > 0.95
    # Equal embeddings: every comparison is a tie.
    assert speaker_anchors(np.ones((4, 2)), [1, 1, 2, 2]).auc == 0.5


def test_anchors_bad_input():
    alone = speaker_anchors(np.eye(3), ["a", "b", "c"])
    assert np.isnan(alone.same_speaker) and np.isnan(alone.auc) and alone.num_same == 0
    with pytest.raises(ValueError, match="`speakers` must name two speakers or more"):
        speaker_anchors(np.eye(2), ["a", "a"])
    with pytest.raises(ValueError, match=r"`embeddings` must be \[3, C\]"):
        speaker_anchors(np.eye(2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="`embeddings` holds one that is zero or not finite"):
        speaker_anchors([[1, 0], [0, 0]], ["a", "b"])
