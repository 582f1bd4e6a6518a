import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertModel, WhisperForConditionalGeneration

from hf_affectcodec.teachers.frames import FrameTeacher
from hf_affectcodec.teachers.hubert import HubertTeacher
from hf_affectcodec.teachers.whisper import WhisperTeacher


def test_hubert(hubert, check_frames, synthesize_speech):
    model, processor = hubert
    teacher = HubertTeacher(model.train(), processor)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    check_frames(teacher)

    # the mean of all 3 hidden states, 149 frames of 3 s, the last one repeated
    waveform = torch.from_numpy(synthesize_speech(3.0))
    inputs = processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 3 and states[0].shape == (1, 149, 16)
    expected = sum(states)[0] / 3
    torch.testing.assert_close(teacher([waveform])[0], torch.cat([expected, expected[-1:]]))
    first = HubertTeacher(model, processor, layer=0)([waveform])[0]
    assert torch.equal(first[:149], states[0][0])


def test_whisper(whisper, check_frames, synthesize_speech):
    model, processor = whisper
    teacher = WhisperTeacher(model, processor)
    assert teacher.feature_size == 16 and teacher.description["window_seconds"] == 3
    check_frames(teacher)

    waveform = torch.from_numpy(synthesize_speech(2.0))
    inputs = processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    assert inputs["input_features"].shape == (1, 80, 300)
    assert torch.equal(teacher([waveform])[0], model.encoder(**inputs).last_hidden_state[0, :100])


def test_longer_than_the_window(whisper, synthesize_speech):
    model, processor = whisper
    teacher = WhisperTeacher(model, processor)
    waveform = torch.from_numpy(synthesize_speech(7.011))
    features = teacher([waveform])[0]
    assert len(features) == 351
    assert torch.equal(features[:150], teacher([waveform[:48_000]])[0])
    assert torch.equal(features[150:300], teacher([waveform[48_000:96_000]])[0])
    # 351 frames from sample 64320 = frame 201 on, of which those from frame 300 on are kept
    assert torch.equal(features[300:], teacher([waveform[64_320:]])[0][99:])


def test_any_encoder_at_a_stated_rate(hubert, check_frames, synthesize_speech):
    model, processor = hubert
    # stated as 25 Hz: of the model's 99 frames of 2 s only the first 50 are its own, spread over 100 codec frames
    waveform = torch.from_numpy(synthesize_speech(2.0))
    features = FrameTeacher(model, processor, frame_rate=25.0)([waveform])[0]
    hidden = model(**processor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(features[1:-1:2], 0.75 * hidden[:49] + 0.25 * hidden[1:50])
    # windows
    check_frames(FrameTeacher(model, processor, window_seconds=0.5, layer="mean"), seconds=(2.0, 0.3, 1.013))


def test_loading(hubert, whisper, tmp_path, synthesize_speech):
    waveform = torch.from_numpy(synthesize_speech(0.5))
    for pair, teacher in ((hubert, HubertTeacher), (whisper, WhisperTeacher), (hubert, FrameTeacher)):
        folder = tmp_path / teacher.__name__
        for part in pair:
            part.save_pretrained(folder)
        loaded, built = teacher.from_pretrained(folder), teacher(*pair)
        assert torch.equal(loaded([waveform])[0], built([waveform])[0])
        assert loaded.description == {**built.description, "source": str(folder)}
        assert loaded.description["revision"] is None and len(loaded.description["weights_sha256"]) == 64


def test_released_checkpoints_load(hubert, whisper, tmp_path, synthesize_speech):
    """Released files hold more than the encoder, under a prefix, and name weight norm as old versions of torch did."""
    waveform = torch.from_numpy(synthesize_speech(0.5))
    model, processor = whisper
    full = WhisperForConditionalGeneration(model.config)
    full.model.load_state_dict(model.state_dict())
    full.save_pretrained(tmp_path / "whisper")
    processor.save_pretrained(tmp_path / "whisper")
    loaded = WhisperTeacher.from_pretrained(tmp_path / "whisper")
    assert torch.equal(loaded([waveform])[0], WhisperTeacher(model, processor)([waveform])[0])

    model, processor = hubert
    model.save_pretrained(tmp_path / "hubert")
    processor.save_pretrained(tmp_path / "hubert")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for key, value in model.state_dict().items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[key] = value.contiguous()
    assert sum(key.endswith(("weight_g", "weight_v")) for key in state) == 2
    save_file(state, tmp_path / "hubert" / "model.safetensors", metadata={"format": "pt"})
    loaded = HubertTeacher.from_pretrained(tmp_path / "hubert")
    assert torch.equal(loaded([waveform])[0], HubertTeacher(model, processor)([waveform])[0])


def test_missing_weights_fail(hubert, tmp_path):
    model, processor = hubert
    state = {key: value for key, value in model.state_dict().items() if "layers.1.final_layer_norm" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks 2 weights of HubertModel: encoder.layers.1"):
        HubertTeacher.from_pretrained(tmp_path)
    # the mask of self-supervised training is missing from wav2vec2-base-960h, and nothing depends on it
    state = {key: value for key, value in model.state_dict().items() if key != "masked_spec_embed"}
    assert len(state) == len(model.state_dict()) - 1
    model.save_pretrained(tmp_path, state_dict=state)
    assert isinstance(HubertTeacher.from_pretrained(tmp_path).model, HubertModel)


def test_bad_options(hubert):
    for options, words in [
        ({"frame_rate": 0}, "`frame_rate` must be positive"),
        ({"layer": "first"}, "`layer` must be"),
        ({"layer": -1}, "`layer` must be"),
        ({"window_seconds": 0.03}, "`window_seconds` must be"),
    ]:
        with pytest.raises(ValueError, match=words):
            FrameTeacher(*hubert, **options)
