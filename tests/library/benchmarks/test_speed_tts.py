"""The table of the speech language model on a tiny one: the peer has its shape, every system generates what is asked for."""

import re

import pytest
from transformers import GPT2LMHeadModel

from hf_affectcodec import AffectCodecTTSConfig
from hf_affectcodec.benchmarks import speed_tts
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration


TINY = {
    "codec_config": {"backbone": "istft", "hidden_size": 16, "intermediate_size": 32, "codebook_size": 32},
    "text_vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def test_the_peer_has_the_same_shape():
    config = AffectCodecTTSConfig(**TINY)
    peer = speed_tts.build_peer(config)
    assert isinstance(peer, GPT2LMHeadModel) and peer.lm_head.out_features == config.vocab_size
    layer = peer.transformer.h[0]
    assert len(peer.transformer.h) == 3 and layer.attn.num_heads == 4 and layer.mlp.c_fc.weight.shape == (32, 48)


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(speed_tts, "AffectCodecTTSConfig", lambda: AffectCodecTTSConfig(**TINY))
    passes = []
    clean = AffectCodecTTSForConditionalGeneration.__init__

    def counting(self, config):
        clean(self, config)
        self.nar.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[2]))

    monkeypatch.setattr(AffectCodecTTSForConditionalGeneration, "__init__", counting)
    speed_tts.main(["--frames", "4", "--prompt-frames", "5", "--text", "6", "--rounds", "2", "--batch-size", "2"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in said[4:6]] == [speed_tts.OURS, speed_tts.PEER]
    ours, least, most = map(float, re.fullmatch(r"ours / peer, .*: (\S+) \((\S+) to (\S+)\)", said[-2]).groups())
    # On a model this small the clock tells next to nothing.
    assert least <= ours <= most
    assert passes == [1, 2, 3, 4, 5, 6, 7] * 3 and "s a second of speech" in said[-1]
    with pytest.raises(SystemExit):
        speed_tts.main(["--frames", "1"])
