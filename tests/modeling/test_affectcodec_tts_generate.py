import copy
import math

import pytest
import torch
from tiny_tts import CODES, QUANTIZERS, random_inputs, tiny_tts
from transformers import GenerationConfig

from hf_affectcodec.modeling.sampling_affectcodec_tts import AffectCodecTTSRepetitionAwareSampling


EOS = CODES
TEXTS, FRAMES = [5, 3, 4, 5], [8, 12, 10, 9]


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt four random utterances of different lengths by heart, and the utterances."""
    model = tiny_tts(hidden_size=64, intermediate_size=128, initializer_range=0.08).train()
    model.codec_model.requires_grad_(False)
    utterances = random_inputs(TEXTS, FRAMES, seed=5)
    phonemes, mask, codes, codes_mask = utterances
    optimizer = torch.optim.AdamW([*model.ar.parameters(), *model.nar.parameters()], lr=4e-3, weight_decay=0.0)
    # With and without a prompt, as `generate` has it with and without.
    prompt = (torch.arange(max(FRAMES)) < 3).expand(4, -1)
    for _ in range(400):
        loss = model(phonemes, codes, mask, codes_mask).loss
        for prompt_mask in (prompt, None):
            loss = loss + model(phonemes, codes, mask, codes_mask, stage="nar", prompt_mask=prompt_mask).loss
        if float(loss.detach()) < 0.005:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), utterances


def test_four_utterances_are_learnt_by_heart(learnt):
    model, (phonemes, mask, codes, codes_mask) = learnt
    with torch.no_grad():
        outputs = model(phonemes, codes, mask, codes_mask)
    targets = outputs.labels != -100
    assert int(targets.sum()) == sum(FRAMES) + 4
    assert bool((outputs.logits.argmax(-1) == outputs.labels)[targets].all())


@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_what_was_learnt_is_spoken(learnt, cache):
    model, (phonemes, mask, codes, codes_mask) = learnt
    outputs = model.generate(phonemes, mask, max_new_frames=20, do_sample=False, **cache)
    assert outputs.lengths.tolist() == FRAMES and outputs.stop_reasons == ["eos"] * 4
    assert torch.equal(outputs.audio_codes_mask, codes_mask)
    assert torch.equal(outputs.audio_codes, codes * codes_mask[:, None])
    assert [len(audio) for audio in outputs.audio] == [320 * frames for frames in FRAMES]
    for row, frames in enumerate(FRAMES):
        with torch.no_grad():
            expected = model.codec_model.decode(codes[row : row + 1, :, :frames]).audio_values[0, 0]
        torch.testing.assert_close(outputs.audio[row], expected, atol=1e-5, rtol=1e-5)


def test_what_was_learnt_is_continued_from_prompts_of_several_lengths(learnt):
    model, (phonemes, mask, codes, _) = learnt
    prompts = [2, 3, 4, 3]
    prompt_mask = torch.arange(4) < torch.tensor(prompts)[:, None]
    outputs = model.generate(
        phonemes, mask, codes[..., :4], prompt_mask, max_new_frames=20, do_sample=False, num_beams=1
    )
    assert outputs.stop_reasons == ["eos"] * 4
    for row, (prompt, frames) in enumerate(zip(prompts, FRAMES, strict=True)):
        assert int(outputs.lengths[row]) == frames - prompt
        assert torch.equal(outputs.audio_codes[row, 0, : frames - prompt], codes[row, 0, prompt:frames])
    # The stages above codebook 1 were trained with prompts of three frames.
    for row in (1, 3):
        assert torch.equal(outputs.audio_codes[row, :, : FRAMES[row] - 3], codes[row, :, 3 : FRAMES[row]])


def test_an_item_of_a_batch_is_the_item_alone():
    """On a model that has learnt nothing, so that nothing but the inputs decides."""
    model = tiny_tts()
    texts, prompts = [5, 2, 3], [6, 2, 4]
    phonemes, mask, codes, codes_mask = random_inputs(texts, prompts)
    outputs = model.generate(phonemes, mask, codes, codes_mask, max_new_frames=12, do_sample=False)
    assert len({tuple(row) for row in outputs.audio_codes[:, 0].tolist()}) == 3
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        alone = model.generate(
            phonemes[row : row + 1, 5 - text :], prompt_codes=codes[row : row + 1, :, :prompt],
            max_new_frames=12, do_sample=False,
        )  # fmt: skip
        length = int(alone.lengths[0])
        assert length == int(outputs.lengths[row]) and alone.stop_reasons[0] == outputs.stop_reasons[row]
        assert torch.equal(outputs.audio_codes[row, :, :length], alone.audio_codes[0])
        assert (outputs.audio_codes[row, :, length:] == 0).all()
        torch.testing.assert_close(outputs.audio[row], alone.audio[0], atol=1e-5, rtol=1e-5)


def test_new_codes_are_the_argmax_of_each_part():
    """`generate` against plain calls of the parts: one frame after the other, then one codebook after the other."""
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([4], [5])
    outputs = model.generate(phonemes, prompt_codes=codes, max_new_frames=6, do_sample=False)
    ids = torch.cat((phonemes + CODES + 2, torch.tensor([[CODES + 1]]), codes[:, 0]), dim=1)
    with torch.no_grad():
        for _ in range(6):
            logits = model.ar(ids).logits[0, -1]
            ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
        new = ids[:, -6:]
        assert torch.equal(new, outputs.audio_codes[:, 0]) and (new < CODES).all()
        whole = torch.cat((codes, torch.zeros(1, QUANTIZERS, 6, dtype=torch.long)), dim=2)
        whole[:, 0, 5:] = new
        for codebook in range(1, QUANTIZERS):
            prompt_mask = torch.arange(11)[None] < 5
            logits = model.nar(phonemes, whole, codebook, prompt_mask=prompt_mask).logits
            whole[:, codebook, 5:] = logits[:, 5:].argmax(-1)
    assert torch.equal(whole[..., 5:], outputs.audio_codes)


def test_stops_at_the_limit_and_says_so(learnt):
    model, (phonemes, mask, codes, _) = learnt
    outputs = model.generate(phonemes, mask, max_new_frames=9, do_sample=False)
    assert outputs.lengths.tolist() == [8, 9, 9, 9] and outputs.stop_reasons == ["eos", "limit", "limit", "limit"]
    outputs = model.generate(phonemes, mask, max_seconds=0.14, do_sample=False)
    assert outputs.lengths.tolist() == [7] * 4 and set(outputs.stop_reasons) == {"limit"}
    outputs = model.generate(phonemes, mask, max_new_frames=10, min_new_frames=10, do_sample=False)
    assert outputs.lengths.tolist() == [10] * 4
    config = GenerationConfig(max_new_tokens=4, do_sample=False)
    assert model.generate(phonemes, mask, generation_config=config).lengths.tolist() == [4] * 4
    # As a pipeline calls it.
    outputs = model.generate(phonemes, mask, max_new_tokens=5, return_dict_in_generate=True, do_sample=False)
    assert outputs["lengths"].tolist() == [5] * 4


def test_a_seed_repeats_sampling_and_leaves_the_random_state():
    model = tiny_tts()
    phonemes = torch.tensor([[4, 2, 9]])
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, second, other = (model.generate(phonemes, max_new_frames=8, seed=seed).audio_codes for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = model.generate(phonemes, max_new_frames=8).audio_codes
    assert not torch.equal(torch.get_rng_state(), state) and drawn.shape[1] == QUANTIZERS


def test_callback_gets_every_frame(learnt):
    model, (phonemes, mask, codes, _) = learnt
    frames = []
    outputs = model.generate(phonemes, mask, max_new_frames=20, do_sample=False, codes_callback=frames.append)
    assert len(frames) == max(FRAMES) and all(frame.shape == (4,) for frame in frames)
    expected = outputs.audio_codes[:, 0].masked_fill(~outputs.audio_codes_mask, -1)
    assert torch.equal(torch.stack(frames, dim=1), expected)


def test_prompt_audio_is_its_codes():
    model = tiny_tts()
    torch.manual_seed(1)
    audio = torch.randn(2, 1, 2000) * 0.3
    mask = torch.arange(2000) < torch.tensor([2000, 1000])[:, None]
    phonemes = torch.tensor([[4, 2, 9], [1, 2, 3]])
    from_audio = model.generate(
        phonemes, prompt_values=audio, prompt_padding_mask=mask, max_new_frames=6, do_sample=False
    )
    encoded = model.codec_model.encode(audio, mask)
    assert encoded.audio_codes_mask.sum(-1).tolist() == [7, 4]
    from_codes = model.generate(
        phonemes, None, encoded.audio_codes, encoded.audio_codes_mask, max_new_frames=6, do_sample=False
    )
    assert torch.equal(from_audio.audio_codes, from_codes.audio_codes)
    without = model.generate(phonemes, max_new_frames=6, do_sample=False)
    assert not torch.equal(without.audio_codes, from_codes.audio_codes)


def test_transformers_own_generate_works_on_the_ar_part(learnt):
    """Plain `generate` of the language model, with processors that look up logits by the ids of the text."""
    model, (phonemes, _, codes, _) = learnt
    ids = torch.cat((phonemes[:1] + CODES + 2, torch.tensor([[CODES + 1]])), dim=1)
    options = {"max_new_tokens": 20, "do_sample": False, "top_k": 50, "top_p": 1.0, "temperature": 1.0}
    plain = model.ar.generate(ids, **options)
    assert plain[0, 6:].tolist() == [*codes[0, 0, :8].tolist(), EOS]
    penalised = model.ar.generate(ids, repetition_penalty=1.0001, no_repeat_ngram_size=9, **options)
    assert torch.equal(penalised, plain)
    beams = model.ar.generate(ids, num_beams=3, **options)
    assert torch.equal(beams, plain)
    assert set(model.ar.generate(ids, repetition_penalty=1e6, **options)[0, 6:].tolist()).isdisjoint({EOS + 1})


def test_repetition_aware_sampling_by_hand():
    # Five ids, of which 0..3 are codes and 4 ends. Code 0 fills 3 of the last 4, more than half; 3 stands once.
    ids = torch.tensor([[9, 9, 0, 0, 3, 0]])
    p = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]])
    got = AffectCodecTTSRepetitionAwareSampling(4, 0.5, 4, top_k=2)(ids, p.log()).exp()
    # Among the two likeliest: 5/7 and 2/7. Code 0 is drawn again from all: 5/7 of p comes on top.
    expected = torch.tensor([[0.0, 2 / 7, 0, 0, 0]]) + 5 / 7 * p
    torch.testing.assert_close(got, expected)
    # Exactly half is not above half.
    ids = torch.tensor([[0, 9, 9, 1, 0, 2, 0]])
    got = AffectCodecTTSRepetitionAwareSampling(4, 0.5, 4, top_p=0.6)(ids, p.log()).exp()
    torch.testing.assert_close(got, torch.tensor([[5 / 7, 2 / 7, 0, 0, 0]]))
    # Padding repeats the end of speech, which may still come.
    ids = torch.tensor([[4, 4, 4, 4]])
    got = AffectCodecTTSRepetitionAwareSampling(4, 0.5, 4)(ids, p.log()).exp()
    torch.testing.assert_close(got, p)
    # Temperature 1/2 squares.
    got = AffectCodecTTSRepetitionAwareSampling(4, 0.5, 4, temperature=0.5)(ids, p.log()).exp()
    torch.testing.assert_close(got, p**2 / (p**2).sum())


def test_repetition_aware_sampling_frees_a_stuck_model():
    model = tiny_tts()
    with torch.no_grad():
        # One code after every other, with probability near 1; the tail has the rest.
        model.ar.code_head.weight.zero_()
        model.ar.code_head.weight[7] = model.ar.model.norm.bias * 40
        model.ar.model.norm.weight.zero_()
    bias = float(model.ar.model.norm.bias.detach().square().sum() * 40)
    model.ar.code_head.weight.data[7] *= 6.0 / bias
    phonemes = torch.tensor([[4, 2, 9]])
    options = {"max_new_frames": 100, "min_new_frames": 100, "seed": 0, "top_k": 1}
    stuck = model.generate(phonemes, **options).audio_codes[0, 0]
    assert (stuck == 7).all()
    freed = model.generate(phonemes, repetition_window=10, repetition_threshold=0.1, **options).audio_codes[0, 0]
    share = float((freed == 7).float().mean())
    # What is second of ten is drawn again from the softmax, in which code 7 has e^6 / (e^6 + 64).
    assert share == pytest.approx(math.exp(6) / (math.exp(6) + 64), abs=0.12)


def test_user_configuration_is_left_alone():
    model = tiny_tts()
    own, given = copy.deepcopy(model.generation_config), GenerationConfig(do_sample=True, top_k=3, max_new_tokens=3)
    before = given.to_dict()
    model.generate(torch.tensor([[4]]), generation_config=given, repetition_window=2, temperature=0.5, seed=0)
    model.generate(torch.tensor([[4]]), max_new_frames=2, do_sample=False)
    assert given.to_dict() == before and model.generation_config.to_dict() == own.to_dict()
    assert model.generation_config.max_new_tokens == 1000


PHONEMES = torch.tensor([[4, 2, 9], [1, 2, 3]])
PROMPT = torch.zeros(2, QUANTIZERS, 4, dtype=torch.long)
AUDIO = torch.zeros(2, 1, 1600)


@pytest.mark.parametrize(
    "argument, changes",
    [
        ("input_ids", {"input_ids": PHONEMES[:, :0]}),
        ("input_ids", {"input_ids": PHONEMES + 11}),
        ("input_ids", {"input_ids": PHONEMES - 2}),
        ("input_ids", {"input_ids": PHONEMES.float()}),
        ("input_ids", {"input_ids": "text"}),
        ("attention_mask", {"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}),
        ("attention_mask", {"attention_mask": torch.ones(2, 4)}),
        ("prompt_codes", {"prompt_codes": PROMPT[..., :1]}),
        ("prompt_codes", {"prompt_codes": PROMPT[..., :0]}),
        ("prompt_codes", {"prompt_codes": PROMPT.repeat(1, 1, 3)}),
        ("prompt_codes", {"prompt_codes": PROMPT + CODES}),
        ("prompt_codes", {"prompt_codes": PROMPT - 1}),
        ("prompt_codes", {"prompt_codes": PROMPT[:, :7]}),
        ("prompt_codes", {"prompt_codes": PROMPT[:1]}),
        ("prompt_codes", {"prompt_codes": PROMPT.float()}),
        ("prompt_codes", {"prompt_codes": PROMPT, "prompt_values": AUDIO}),
        ("prompt_codes_mask", {"prompt_codes": PROMPT, "prompt_codes_mask": torch.tensor([[1] * 4, [0, 1, 1, 1]])}),
        ("prompt_codes_mask", {"prompt_codes": PROMPT, "prompt_codes_mask": torch.ones(2, 5)}),
        ("prompt_values", {"prompt_values": torch.zeros(2, 1, 320)}),
        ("prompt_values", {"prompt_values": torch.zeros(2, 1, 11 * 320)}),
        ("prompt_values", {"prompt_values": torch.zeros(2, 1600)}),
        ("prompt_values", {"prompt_values": torch.full((2, 1, 1600), math.nan)}),
        ("prompt_padding_mask", {"prompt_values": AUDIO, "prompt_padding_mask": AUDIO[:, 0] + torch.arange(1600) > 200}),
        ("max_new_frames", {"max_new_frames": 0}),
        ("max_seconds", {"max_seconds": 0.01}),
        ("max_seconds", {"max_seconds": 1.0, "max_new_frames": 4}),
        ("min_new_frames", {"max_new_frames": 4, "min_new_frames": 5}),
        ("min_new_frames", {"min_new_frames": 0}),
        ("max_length", {"max_length": 30}),
        ("num_beams", {"num_beams": 2}),
        ("tempature", {"tempature": 0.7}),
        ("repetition_window", {"repetition_window": 0}),
        ("repetition_window", {"repetition_window": 4, "do_sample": False}),
        ("repetition_threshold", {"repetition_window": 4, "repetition_threshold": 1.0}),
    ],
)  # fmt: skip
def test_bad_input_of_generate_is_named(argument, changes):
    with pytest.raises(ValueError, match=f"`{argument}`") as error:
        MODEL.generate(**{"input_ids": PHONEMES, **changes})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argument, changes",
    [
        ("stage", {"stage": "both"}),
        ("codebooks", {"codebooks": (1,)}),
        ("codebooks", {"stage": "nar", "codebooks": ()}),
        ("codebooks", {"stage": "nar", "codebooks": (0,)}),
        ("codebooks", {"stage": "nar", "codebooks": (8,)}),
        ("prompt_mask", {"stage": "nar", "prompt_mask": torch.ones(2, 3)}),
        ("loss_mask", {"loss_mask": torch.ones(2, 3)}),
        ("loss_reduction", {"loss_reduction": "none"}),
        ("audio_codes", {"audio_codes": PROMPT[:, 0]}),
        ("audio_codes", {"audio_codes": PROMPT + CODES}),
        ("audio_codes_mask", {"audio_codes_mask": torch.zeros(2, 4)}),
    ],
)
def test_bad_input_of_forward_is_named(argument, changes):
    with pytest.raises(ValueError, match=f"`{argument}") as error:
        MODEL(**{"input_ids": PHONEMES, "audio_codes": PROMPT, **changes})
    assert "\n" not in str(error.value)


MODEL = tiny_tts()


def test_guidance_against_a_loop_without_a_cache():
    """Greedy codes of `u + 3 (c - u)`; u is the model without the emotion's symbol in its text, in a batch with padding."""
    model = tiny_tts()
    phonemes, mask, codes, codes_mask = random_inputs([5, 3], [4, 6])
    emotion_mask = torch.zeros_like(phonemes)
    emotion_mask[0, 0] = emotion_mask[1, 2] = 1
    arguments = {"prompt_codes": codes, "prompt_codes_mask": codes_mask, "do_sample": False, "max_new_frames": 7}
    arguments |= {"emotion_mask": emotion_mask, "min_new_frames": 7}
    outputs = model.generate(phonemes, mask, emotion_guidance=3.0, **arguments)
    differs = False
    for row in range(2):
        text = phonemes[row][mask[row]].tolist()
        kept = phonemes[row][mask[row] & (emotion_mask[row] == 0)].tolist()
        said = codes[row, 0, : int(codes_mask[row].sum())].tolist()
        for frame in range(7):
            logits = []
            for symbols in (text, kept):
                ids = [symbol + model.config.text_token_offset for symbol in symbols] + [EOS + 1, *said]
                with torch.no_grad():
                    logits.append(model.ar(torch.tensor([ids])).logits[0, -1, :EOS].log_softmax(-1))
            with_emotion, without = logits
            guided = without + 3.0 * (with_emotion - without)
            differs |= int(guided.argmax()) != int(with_emotion.argmax())
            said.append(int(guided.argmax()))
            assert int(outputs.audio_codes[row, 0, frame]) == said[-1]
    assert differs
    plain = model.generate(phonemes, mask, emotion_guidance=1.0, **arguments)
    assert not torch.equal(plain.audio_codes[:, 0], outputs.audio_codes[:, 0])


def test_guidance_of_zero_is_the_text_without_the_emotion():
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([5], [6])
    emotion_mask = torch.tensor([[1, 0, 0, 0, 0]])
    limits = {"do_sample": False, "max_new_frames": 9, "prompt_codes": codes}
    guided = model.generate(phonemes, emotion_mask=emotion_mask, emotion_guidance=0.0, **limits)
    without = model.generate(phonemes[:, 1:], **limits)
    frames = min(int(guided.lengths), int(without.lengths))
    assert torch.equal(guided.audio_codes[:, 0, :frames], without.audio_codes[:, 0, :frames])
    with pytest.raises(ValueError, match="`emotion_mask`"):
        model.generate(phonemes, emotion_guidance=2.0, **limits)


def test_guidance_towards_the_text_against_a_loop_without_a_cache():
    """Greedy codes of `u + 2 (c - u)`; u is the model whose codes see no text, in a batch with padding."""
    model = tiny_tts()
    phonemes, mask, codes, codes_mask = random_inputs([5, 3], [4, 6])
    arguments = {"prompt_codes": codes, "prompt_codes_mask": codes_mask, "do_sample": False}
    arguments |= {"max_new_frames": 7, "min_new_frames": 7}
    outputs = model.generate(phonemes, mask, guidance_scale=2.0, **arguments)
    differs = False
    for row in range(2):
        text = [symbol + model.config.text_token_offset for symbol in phonemes[row][mask[row]].tolist()]
        said = codes[row, 0, : int(codes_mask[row].sum())].tolist()
        for frame in range(7):
            with torch.no_grad():
                told = model.ar(torch.tensor([[*text, EOS + 1, *said]])).logits[0, -1, :EOS].log_softmax(-1)
                untold = model.ar(torch.tensor([[EOS + 1, *said]])).logits[0, -1, :EOS].log_softmax(-1)
            guided = untold + 2.0 * (told - untold)
            differs |= int(guided.argmax()) != int(told.argmax())
            said.append(int(guided.argmax()))
            assert int(outputs.audio_codes[row, 0, frame]) == said[-1]
    assert differs


def test_guidance_of_the_upper_codebooks_against_a_loop():
    """Each the likeliest of `u + 2 (c - u)` after the ones below; u has neither text nor a place for it."""
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([5], [4])
    arguments = {"prompt_codes": codes, "do_sample": False, "max_new_frames": 7, "min_new_frames": 7}
    said = model.generate(phonemes, guidance_scale=2.0, **arguments).audio_codes
    unguided, filled = said.clone(), torch.cat((codes, said), dim=2)
    is_prompt = torch.arange(11)[None] < 4
    for codebook in range(1, model.config.num_quantizers):
        with torch.no_grad():
            told = model.nar(phonemes, filled, codebook, prompt_mask=is_prompt).logits[:, 4:]
            untold = model.nar(phonemes[:, :0], filled, codebook, prompt_mask=is_prompt).logits[:, 4:]
        assert torch.equal(said[:, codebook], (untold + 2.0 * (told - untold)).argmax(-1))
        unguided[:, codebook] = told.argmax(-1)
    assert not torch.equal(said, unguided)


def test_guidance_towards_several_parts_against_a_loop():
    """
    Every codebook is the likeliest of `c + 1.5 (c - t) + .7 (c - p)`, t without the text, p the own text without the prompt, in a
    batch with padding; and towards the prompt alone.
    """
    model = tiny_tts()
    phonemes, mask, codes, codes_mask = random_inputs([6, 4], [4, 6])
    of_prompt = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]])
    arguments = {
        "prompt_codes": codes,
        "prompt_codes_mask": codes_mask,
        "prompt_text_mask": of_prompt,
        "do_sample": False,
    }
    arguments |= {"max_new_frames": 7, "min_new_frames": 7}
    for towards_text in (2.5, 1.0):
        options = arguments | {"guidance_scale": towards_text, "prompt_guidance": 1.7}
        outputs = model.generate(phonemes, mask, **options)
        for row in range(2):
            text, own = phonemes[row][mask[row]], phonemes[row][mask[row] & (of_prompt[row] == 0)]
            prompt = codes[row, :, : int(codes_mask[row].sum())]
            said, frames = outputs.audio_codes[row], prompt.shape[1]
            filled = torch.cat((prompt, said), dim=1)

            def first(symbols, before):
                ids = torch.cat((symbols + model.config.text_token_offset, torch.tensor([EOS + 1]), before))
                return model.ar(ids[None]).logits[0, -1, :EOS].log_softmax(-1)

            def upper(symbols, frames_seen, codebook, length):
                is_prompt = torch.arange(frames_seen.shape[1])[None] < length
                return model.nar(symbols[None], frames_seen[None], codebook, prompt_mask=is_prompt).logits[0, length:]

            def guided(whole, without_text, without_prompt, scale=towards_text):
                return whole + (scale - 1) * (whole - without_text) + 0.7 * (whole - without_prompt)

            with torch.no_grad():
                for frame in range(7):
                    before, new = filled[0, : frames + frame], said[0, :frame]
                    logits = guided(first(text, before), first(text[:0], before), first(own, new))
                    assert int(logits.argmax()) == int(said[0, frame])
                for codebook in range(1, model.config.num_quantizers):
                    logits = guided(
                        upper(text, filled, codebook, frames),
                        upper(text[:0], filled, codebook, frames),
                        upper(own, said, codebook, 0),
                    )
                    assert torch.equal(logits.argmax(-1), said[codebook])
        plain = model.generate(phonemes, mask, **options | {"prompt_guidance": 1.0})
        assert (plain.audio_codes != outputs.audio_codes).any(-1)[:, 1:].any() and not torch.equal(
            plain.audio_codes[:, 0], outputs.audio_codes[:, 0]
        )


def test_guidance_towards_the_prompt_needs_one():
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([5], [6])
    of_prompt = torch.tensor([[1, 1, 0, 0, 0]])
    limits = {"do_sample": False, "max_new_frames": 5, "prompt_guidance": 2.0}
    with pytest.raises(ValueError, match="`prompt_guidance` needs a prompt"):
        model.generate(phonemes, prompt_text_mask=of_prompt, **limits)
    for given in (None, of_prompt[:, 1:]):
        with pytest.raises(ValueError, match="`prompt_text_mask` must be"):
            model.generate(phonemes, prompt_codes=codes, prompt_text_mask=given, **limits)
    with pytest.raises(ValueError, match="`prompt_text_mask` leaves no symbols"):
        model.generate(phonemes, prompt_codes=codes, prompt_text_mask=torch.ones_like(phonemes), **limits)


def test_guidance_of_zero_towards_the_prompt_is_speech_without_one():
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([5], [6])
    limits = {"do_sample": False, "max_new_frames": 9}
    of_prompt = torch.tensor([[1, 1, 0, 0, 0]])
    guided = model.generate(phonemes, prompt_codes=codes, prompt_text_mask=of_prompt, prompt_guidance=0.0, **limits)
    without = model.generate(phonemes[:, 2:], **limits)
    frames = min(int(guided.lengths), int(without.lengths))
    assert torch.equal(guided.audio_codes[..., :frames], without.audio_codes[..., :frames])


def test_the_generation_config_may_hold_the_guidance_scale():
    """Among the shipped settings it does what the argument does; 1 is no guidance."""
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([5], [6])
    arguments = {"prompt_codes": codes, "do_sample": False, "max_new_frames": 9, "min_new_frames": 9}
    guided = model.generate(phonemes, guidance_scale=2.5, **arguments)
    model.generation_config.guidance_scale = 2.5
    assert torch.equal(model.generate(phonemes, **arguments).audio_codes, guided.audio_codes)
    assert model.generation_config.guidance_scale == 2.5
    plain = model.generate(phonemes, guidance_scale=1.0, **arguments)
    model.generation_config.guidance_scale = None
    assert torch.equal(model.generate(phonemes, **arguments).audio_codes, plain.audio_codes)
    assert not torch.equal(plain.audio_codes, guided.audio_codes)


def test_hidden_text_is_what_guidance_is_trained_on():
    """The loss of an item whose text is hidden is that of its codes alone; of the others, what it was."""
    model = tiny_tts()
    phonemes, mask, codes, codes_mask = random_inputs([5, 3], [4, 6])
    options = {"attention_mask": mask, "audio_codes_mask": codes_mask, "loss_reduction": "sum"}
    with torch.no_grad():
        hidden = model(phonemes, codes, hidden_text=torch.tensor([0, 1]), **options).logits
        seen = model(phonemes, codes, **options).logits
        said = codes[1, 0].tolist()
        alone = model.ar(torch.tensor([[EOS + 1, *said]])).logits[0, :, : EOS + 1]
        loss = model(phonemes, codes, hidden_text=torch.tensor([1, 1]), **options).loss
        second = [
            model(phonemes, codes, stage="nar", hidden_text=torch.tensor(hidden), **options).logits
            for hidden in ([0, 1], [0, 0])
        ]
        of_codes = model.nar(phonemes[1:], codes[1:], 2, attention_mask=torch.zeros(1, 5).bool()).logits[0]
    assert torch.allclose(hidden[0], seen[0], atol=1e-5)
    assert torch.allclose(hidden[1], alone, atol=1e-5)
    assert not torch.allclose(hidden[1], seen[1], atol=1e-2)
    assert torch.allclose(second[0][0], second[1][0], atol=1e-5)
    assert torch.allclose(second[0][1, 1], of_codes, atol=1e-5)
    assert not torch.allclose(second[0][1], second[1][1], atol=1e-2)
    expected = 0.0
    for row in range(2):
        said = codes[row, 0, : int(codes_mask[row].sum())].tolist()
        with torch.no_grad():
            logits = model.ar(torch.tensor([[EOS + 1, *said]])).logits[0, :, : EOS + 1]
        expected += float(torch.nn.functional.cross_entropy(logits, torch.tensor([*said, EOS]), reduction="sum"))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="`hidden_text`"):
        model(phonemes, codes, hidden_text=torch.ones(3), **options)
