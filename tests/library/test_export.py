"""The ONNX files against the model: other lengths and batches than the ones they were made with."""

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import tiny_model

from hf_affectcodec.export import export_onnx, main


VARIANTS = {
    "istft": {"self_guidance": True, "self_guidance_hidden_size": 8},
    "seanet": {"guidance_sources": (), "num_lstm_layers": 1},
}


# The exporter behind the `istft` backbone takes half a minute for any model.
@pytest.mark.parametrize("backbone", ["seanet", pytest.param("istft", marks=pytest.mark.slow)])
def test_equals_the_model(tmp_path, backbone):
    model = tiny_model(backbone, **VARIANTS[backbone])
    if model.guidance is not None:
        torch.nn.init.normal_(model.guidance.back_proj.weight, std=0.5)
    encoder, decoder = (onnxruntime.InferenceSession(path) for path in export_onnx(model, tmp_path / "onnx"))
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["decoder.onnx", "encoder.onnx"]
    generator = torch.Generator().manual_seed(0)
    for batch, frames in ((1, 2), (3, 57), (1, 131)):
        waveform = torch.randn(batch, 1, frames * 320, generator=generator) * 0.3
        with torch.no_grad():
            codes = model.encode(waveform).audio_codes
            audio = model.decode(codes).audio_values.numpy()
        found = encoder.run(None, {"input_values": waveform.numpy()})[0]
        assert found.shape == codes.shape and (found == codes.numpy()).mean() > 0.99
        np.testing.assert_allclose(decoder.run(None, {"audio_codes": codes.numpy()})[0], audio, rtol=0, atol=1e-4)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="evaluation"):
        export_onnx(tiny_model("istft").train(), tmp_path)
    with pytest.raises(ValueError, match="reflection"):
        export_onnx(tiny_model("seanet", pad_mode="reflect"), tmp_path)
    with pytest.raises(SystemExit):
        main(["--out"])
