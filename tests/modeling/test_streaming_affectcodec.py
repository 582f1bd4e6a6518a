"""A stream gives what the whole recording gives, however it is cut, and knows nothing of its neighbours."""

import pytest
import torch
from tiny import tiny_model


VARIANTS = {
    "seanet": {"guidance_sources": ()},
    "istft": {"guidance_sources": ()},
    "seanet guided": {"self_guidance": True, "self_guidance_hidden_size": 8},
    "istft guided": {"self_guidance": True, "self_guidance_hidden_size": 8, "guidance_attention": "self"},
}


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    model = tiny_model(request.param.split()[0], causal=True, **VARIANTS[request.param])
    if model.guidance is not None:
        # It starts at zero, and would then guide nothing.
        torch.nn.init.normal_(model.guidance.back_proj.weight, std=0.5)
        assert not torch.equal(*(model.encode(noise(1, 4000), guidance_source=s).latents for s in ("self", "none")))
    return model


def noise(items: int, samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Louder and softer by turns, so that codes differ.
    envelope = 0.05 + torch.rand(items, 1, -(-samples // 700), generator=generator).repeat_interleave(700, -1)
    return torch.randn(items, 1, samples, generator=generator) * envelope[..., :samples] * 0.5


def assert_same_codes(model, waveform, codes, others):
    """
    Equal codes [B, Q, F], but for ties that the last bit of float32 decides: where a frame differs, the two entries of its
    first differing codebook are equally far from what is left to be coded.
    """
    assert codes.shape == others.shape
    with torch.no_grad():
        residuals = model.quantizer.project_in(model.encode(waveform).latents)
        different = (codes != others).any(1).nonzero().tolist()
        assert len(different) <= 0.005 * codes.shape[0] * codes.shape[2]
        for item, frame in different:
            residual = residuals[item, frame]
            for codebook, mine, other in zip(
                model.quantizer.layers, codes[item, :, frame], others[item, :, frame], strict=True
            ):
                distances = (codebook.embed[[int(mine), int(other)]] - residual).square().sum(-1)
                if mine != other:
                    torch.testing.assert_close(*distances, rtol=1e-5, atol=0)
                    break
                residual = residual - codebook.embed[mine]


def sizes(total: int, largest: int, seed: int) -> list[int]:
    """Random chunk sizes, zeros among them, that sum to `total`."""
    generator, result = torch.Generator().manual_seed(seed), []
    while total:
        result.append(min(total, int(torch.randint(largest + 1, (), generator=generator))))
        total -= result[-1]
    return result


def offline(model, waveform):
    """Codes [1, Q, F] and samples [1, 1, F * hop] of one whole recording [1, 1, T]."""
    codes = model.encode(waveform).audio_codes
    return codes, model.decode(codes).audio_values


def streamed(model, waveform, chunks, code_chunks):
    stream = model.streaming(1)
    codes, start = [], 0
    for size in chunks:
        codes.append(stream.encode(waveform[..., start : start + size]).audio_codes)
        start += size
    codes.append(stream.finish_encode().audio_codes)
    codes = torch.cat(codes, dim=-1)
    audio, start = [], 0
    for size in code_chunks:
        audio.append(stream.decode(codes[..., start : start + size]).audio_values)
        start += size
    audio.append(stream.finish_decode().audio_values)
    return codes, torch.cat(audio, dim=-1)


@pytest.mark.parametrize("largest", [37, 320, 3000])
def test_any_chunks_equal_offline(model, largest):
    with torch.no_grad():
        for seed, samples in enumerate((321, 6400, 9999)):
            waveform = noise(1, samples, seed)
            codes, audio = offline(model, waveform)
            frames = codes.shape[-1]
            found = streamed(model, waveform, sizes(samples, largest, seed), sizes(frames, 1 + largest // 320, seed))
            assert codes.unique().numel() > 10
            assert torch.equal(found[0], codes)
            torch.testing.assert_close(found[1], audio, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_ten_thousand_chunks(model):
    with torch.no_grad():
        waveform = noise(1, 250_000)
        codes, audio = offline(model, waveform)
        generator = torch.Generator().manual_seed(1)
        cuts = torch.randint(0, 250_001, (9_999,), generator=generator).sort().values
        chunks = torch.cat([cuts[:1], cuts.diff(), 250_000 - cuts[-1:]]).tolist()
        assert len(chunks) == 10_000 and sum(chunks) == 250_000
        found = streamed(model, waveform, chunks, sizes(codes.shape[-1], 2, 0))
        assert torch.equal(found[0], codes)
        torch.testing.assert_close(found[1], audio, rtol=0, atol=1e-5)


def test_items_are_streams_of_their_own(model):
    """Three recordings of three lengths, each chunk with another share of each, and a slot that is used twice."""
    with torch.no_grad():
        recordings = [noise(1, samples, seed) for seed, samples in enumerate((7000, 2500, 4321, 3333))]
        stream, generator = model.streaming(3), torch.Generator().manual_seed(0)
        slots, positions = [0, 1, 2], [0, 0, 0, 0]
        codes, audio = [[] for _ in range(4)], [[] for _ in range(4)]

        def take(encoded, only):
            decoded = stream.decode(encoded.audio_codes, encoded.audio_codes_mask.sum(-1))
            for slot in only:
                codes[slots[slot]].append(encoded.audio_codes[slot][:, encoded.audio_codes_mask[slot]])
                audio[slots[slot]].append(decoded.audio_values[slot, 0, decoded.padding_mask[slot]])

        ended = set()
        while len(ended) < 4:
            counts = torch.randint(0, 900, (3,), generator=generator)
            # What lies behind an item's own samples must not matter.
            chunk = torch.full((3, 1, 900), 9.0)
            for slot, recording in enumerate(slots):
                left = recordings[recording].shape[-1] - positions[recording]
                counts[slot] = min(int(counts[slot]), left) if recording not in ended else 0
                part = recordings[recording][0, 0, positions[recording] : positions[recording] + int(counts[slot])]
                chunk[slot, 0, : len(part)] = part
                positions[recording] += len(part)
            take(stream.encode(chunk, counts), range(3))
            for slot, recording in enumerate(slots):
                if recording in ended or positions[recording] < recordings[recording].shape[-1]:
                    continue
                this = torch.arange(3) == slot
                take(stream.finish_encode(this), range(3))
                last = stream.finish_decode(this)
                audio[recording].append(last.audio_values[slot, 0, last.padding_mask[slot]])
                ended.add(recording)
                if recording == 1:
                    stream.reset(this)
                    slots[slot] = 3
        for index, recording in enumerate(recordings):
            expected_codes, expected_audio = offline(model, recording)
            assert torch.equal(torch.cat(codes[index], -1), expected_codes[0])
            torch.testing.assert_close(torch.cat(audio[index]), expected_audio[0, 0], rtol=0, atol=1e-5)


def test_delay(model):
    """Samples come as late as `delay` says: that many are missing until the end is told."""
    stream = model.streaming(1)
    assert stream.delay == (0 if model.config.backbone == "seanet" else (1280 - 320) // 2)
    codes = model.encode(noise(1, 3200)).audio_codes
    assert stream.decode(codes).audio_values.shape[-1] == 3200 - stream.delay
    assert stream.finish_decode().audio_values.shape[-1] == stream.delay


def test_fewer_quantizers(model):
    with torch.no_grad():
        waveform = noise(1, 3200)
        found = model.streaming(1, num_quantizers=3).encode(waveform).audio_codes
        assert torch.equal(found, model.encode(waveform).audio_codes[:, :3])


def test_what_cannot_be_streamed(model):
    with pytest.raises(ValueError, match="causal"):
        tiny_model("istft", guidance_sources=()).streaming()
    with pytest.raises(ValueError, match="pad_mode"):
        tiny_model("seanet", causal=True, guidance_sources=(), pad_mode="reflect").streaming()
    with pytest.raises(ValueError, match="evaluation"):
        tiny_model("istft", causal=True, guidance_sources=()).train().streaming()
    for arguments, name in (
        ({"batch_size": 0}, "batch_size"),
        ({"num_quantizers": 9}, "num_quantizers"),
        ({"guidance_source": "features"}, "guidance_source"),
    ):
        with pytest.raises(ValueError, match=name):
            model.streaming(**arguments)
    stream = model.streaming(2)
    for call, arguments, name in (
        (stream.encode, (torch.zeros(1, 1, 10),), "input_values"),
        (stream.encode, (torch.zeros(2, 10),), "input_values"),
        (stream.encode, (torch.zeros(2, 1, 10, dtype=torch.long),), "input_values"),
        (stream.encode, (torch.full((2, 1, 10), float("nan")),), "input_values"),
        (stream.encode, (torch.zeros(2, 1, 10), torch.tensor([11, 0])), "num_samples"),
        (stream.encode, (torch.zeros(2, 1, 10), [1, 2]), "num_samples"),
        (stream.decode, (torch.full((2, 8, 1), 64),), "audio_codes"),
        (stream.decode, (torch.zeros(2, 8, 1, dtype=torch.long), torch.tensor([-1, 0])), "num_frames"),
        (stream.reset, (torch.tensor([1, 0]),), "items"),
    ):
        with pytest.raises(ValueError, match=name):
            call(*arguments)
