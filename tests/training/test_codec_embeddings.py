"""Embeddings of codes from the codec's codebooks."""

import pytest
import torch
from codec_embeddings import codebook_embeddings, embed_codes_as_codec
from tiny_tts import tiny_tts


@pytest.fixture(scope="module")
def model():
    model = tiny_tts()
    generator = torch.Generator().manual_seed(3)
    for index, layer in enumerate(model.codec_model.quantizer.layers):
        layer.embed.copy_(torch.randn(layer.embed.shape, generator=generator) / (index + 1) + 0.3)
    return model


def test_distances_are_those_of_the_codec(model):
    quantizer = model.codec_model.quantizer
    width = quantizer.layers[0].embed.shape[1]
    embeddings = codebook_embeddings(quantizer, width + 5)
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randint(len(embeddings[0]), (2, len(embeddings), 50), generator=generator)

    def total(tables, codes):
        return sum(table[own] for table, own in zip(tables, codes, strict=True))

    tables = [layer.embed for layer in quantizer.layers]
    ours = (total(embeddings, first) - total(embeddings, second)).norm(dim=-1)
    theirs = (total(tables, first) - total(tables, second)).norm(dim=-1)
    torch.testing.assert_close(ours / theirs, (ours / theirs).mean().expand(50), rtol=1e-4, atol=0)
    assert float(embeddings[0].square().sum(-1).mean()) == pytest.approx(1, rel=1e-4)
    assert max(float(table.mean(0).abs().max()) for table in embeddings) < 1e-5


def test_fewer_channels_than_the_codebooks_have(model):
    width = model.codec_model.quantizer.layers[0].embed.shape[1]
    assert codebook_embeddings(model.codec_model.quantizer, width // 2)[0].shape[1] == width // 2


def test_only_codes_are_changed(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embed_codes_as_codec(model)
    size = model.config.codebook_size
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    tables = {f"nar.code_embeddings.{k}.weight" for k in range(model.config.num_quantizers)}
    assert changed == tables | {"ar.model.embed_tokens.weight", "ar.code_head.weight"}
    for name in ("ar.model.embed_tokens.weight", "ar.code_head.weight"):
        after = model.state_dict()[name]
        assert torch.equal(after[:size], model.nar.code_embeddings[0].weight)
        assert torch.equal(after[size:], before[name][size:])
