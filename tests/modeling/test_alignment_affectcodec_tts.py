"""Guided heads held to a window of the text: by hand, against a loop, and in `generate`."""

import math

import pytest
import torch
from tiny_tts import CODES, QUANTIZERS, random_inputs, tiny_tts
from transformers import GenerationConfig

from hf_affectcodec.modeling.alignment_affectcodec_tts import AffectCodecTTSAlignment


HEADS = [(0, 1), (1, 0)]
EVERYTHING = (99, 99)


def planted(symbol, length=6, codes=3, heads=2):
    """Query [1, H, 1, D] and keys [1, H, K, D] with which every head gives text symbol `symbol` nearly all weight."""
    keys = torch.zeros(1, heads, length + codes, length + codes)
    keys[:, :] = torch.eye(length + codes)
    query = torch.zeros(1, heads, 1, length + codes)
    query[..., symbol] = 20.0
    return query, keys


def test_the_window_by_hand():
    """Six symbols, one of padding; after symbol 2, one back and two ahead: 1 to 4."""
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]]).bool()
    alignment = AffectCodecTTSAlignment([(1, 0)], mask, torch.tensor([2]), (1, 2))
    assert alignment.visible().tolist() == [[False, True, True, True, True, False]]
    query, keys = planted(3)
    hidden = alignment.constrain(1, query, keys, None, 1.0)
    no = -math.inf
    # Codes are seen; the other head sees all.
    assert hidden[0, :, 0].tolist() == [[no, 0, 0, 0, 0, no, 0, 0, 0], [0.0] * 9]
    assert alignment.position.tolist() == [3]
    assert alignment.visible().tolist() == [[False, False, True, True, True, True]]


def test_the_place_follows_the_heads_but_not_back_and_not_beyond():
    mask = torch.ones(1, 6).bool()
    alignment = AffectCodecTTSAlignment([(0, 0), (0, 1)], mask, torch.tensor([-1]), (2, 2))
    places = []
    for symbol in (0, 1, 1, 0, 5, 3, 5, 5):
        alignment.constrain(0, *planted(symbol), None, 1.0)
        places.append(int(alignment.position))
    # 5 lies out of sight of 1: among what is seen all are alike, and the first of them does not lie ahead.
    assert places == [0, 1, 1, 1, 1, 3, 5, 5]


def test_heads_of_several_layers_agree_before_the_place_moves():
    mask = torch.ones(1, 6).bool()
    alignment = AffectCodecTTSAlignment(HEADS, mask, torch.tensor([0]), (0, 3))
    first, second = planted(1), planted(2)
    alignment.constrain(0, first[0], first[1], None, 1.0)
    assert alignment.position.tolist() == [0]
    # Twice as sure of symbol 2
    alignment.constrain(1, 2 * second[0], second[1], None, 1.0)
    assert alignment.position.tolist() == [2]
    untouched = torch.rand(1, 1, 1, 9)
    assert alignment.constrain(7, *first, untouched, 1.0) is untouched
    several = torch.zeros(1, 2, 4, 9)
    assert alignment.constrain(0, several, first[1], untouched, 1.0) is untouched


@pytest.mark.parametrize("boolean", [True, False])
def test_masks_are_joined(boolean):
    mask = torch.ones(1, 6).bool()
    seen = torch.tensor([1, 1, 1, 1, 1, 1, 0, 1, 1]).bool()[None, None, None]
    given = seen if boolean else torch.zeros(1, 1, 1, 9).masked_fill(~seen, -math.inf)
    alignment = AffectCodecTTSAlignment([(0, 0)], mask, torch.tensor([0]), (0, 1))
    hidden = alignment.constrain(0, *planted(1), given, 1.0)
    no = -math.inf
    assert hidden[0, :, 0].tolist() == [[0, 0, no, no, no, no, no, 0, 0], [0, 0, 0, 0, 0, 0, no, 0, 0]]


def arguments(**changes):
    phonemes, mask, codes, codes_mask = random_inputs([9, 6], [4, 6])
    of_prompt = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 0, 0]])
    given = {"input_ids": phonemes, "attention_mask": mask, "prompt_codes": codes, "prompt_codes_mask": codes_mask}
    given |= {"prompt_text_mask": of_prompt, "alignment_heads": HEADS, "alignment_window": (1, 2)}
    return given | {"do_sample": False, "max_new_frames": 12, "min_new_frames": 12} | changes


def sharp_tts():
    """Heads that look at few symbols, so that a window takes something away from them."""
    model = tiny_tts()
    with torch.no_grad():
        for layer in model.ar.model.layers:
            layer.self_attn.q_proj.weight.mul_(6)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [{}, {"cache_implementation": "static"}, {"guidance_scale": 2.0}])
def test_items_of_a_batch_are_aligned_as_they_are_alone(attention, changes):
    model = sharp_tts()
    model.set_attn_implementation(attention)
    both = model.generate(**arguments(**changes)).audio_codes
    plain = model.generate(**arguments(alignment_window=None, **changes)).audio_codes
    wide = model.generate(**arguments(alignment_window=EVERYTHING, **changes)).audio_codes
    assert torch.equal(wide, plain) and not torch.equal(both[:, 0], plain[:, 0])
    for row in range(2):
        given = arguments(**changes)
        text, frames = given["attention_mask"][row], int(given["prompt_codes_mask"][row].sum())
        alone = {
            "input_ids": given["input_ids"][row : row + 1, text],
            "prompt_text_mask": given["prompt_text_mask"][row : row + 1, text],
            "prompt_codes": given["prompt_codes"][row : row + 1, :, :frames],
        }
        given |= alone | {"attention_mask": None, "prompt_codes_mask": None}
        assert torch.equal(model.generate(**given).audio_codes[0], both[row])


def test_against_a_loop_without_a_cache():
    """Each code from the whole sequence anew, every code's window as it was when that code was read, by a plain softmax."""
    model = sharp_tts()
    model.set_attn_implementation("eager")
    given = arguments(attention_mask=None)
    for name in ("input_ids", "prompt_codes", "prompt_text_mask"):
        given[name] = given[name][:1]
    given["prompt_codes"], given["prompt_codes_mask"] = given["prompt_codes"][:, :, :4], None
    said = model.generate(**given).audio_codes[0, 0].tolist()
    text, begin = given["input_ids"].shape[1], given["input_ids"].shape[1] + 1 + 4
    codes, place, windows = given["prompt_codes"][0, 0].tolist(), 2, {}
    weights_of = {}

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        scores = query @ key.transpose(2, 3) * scaling + attention_mask
        for layer, head in HEADS:
            if layer == module.layer_idx:
                for row, (low, high) in windows.items():
                    scores[:, head, row, :text][:, [n for n in range(text) if not low <= n <= high]] = -math.inf
                weights_of[layer, head] = scores[0, head, -1, :text].clone()
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    layers = [layer.self_attn for layer in model.ar.model.layers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hf_affectcodec.modeling.layers_affectcodec_tts.ALL_ATTENTION_FUNCTIONS.get_interface",
            lambda *_: attention,
        )
        for frame in range(12):
            ids = [*(given["input_ids"][0] + model.config.text_token_offset).tolist(), CODES + 1, *codes]
            if frame:
                windows[begin + frame - 1] = (place - 1, place + 2)
            with torch.no_grad():
                code = int(model.ar(torch.tensor([ids]), use_cache=False).logits[0, -1, :CODES].argmax())
            if frame:
                joined = sum(weights_of[pair].log_softmax(-1) for pair in HEADS)
                place = max(place, int(joined.argmax()))
            assert code == said[frame], frame
            codes.append(code)
    assert len(layers) == model.config.num_hidden_layers and place > 2


def test_it_begins_after_padding_emotion_and_the_prompts_words(monkeypatch):
    begun = []
    monkeypatch.setattr(
        "hf_affectcodec.modeling.modeling_affectcodec_tts.AffectCodecTTSAlignment",
        lambda *given: begun.append(given[2].tolist()) or AffectCodecTTSAlignment(*given),
    )
    model = tiny_tts()
    emotion = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]])
    of_prompt = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0, 0]])
    given = arguments(prompt_text_mask=of_prompt, max_new_frames=2, min_new_frames=1)
    model.generate(**given, emotion_mask=emotion)
    model.generate(**given)
    for name in ("prompt_codes", "prompt_codes_mask", "prompt_text_mask"):
        del given[name]
    model.generate(**given, emotion_mask=emotion)
    model.generate(**given)
    assert begun == [[2, 6], [-1, 2], [0, 3], [-1, 2]]


def test_settings_in_the_generation_config(tmp_path):
    """They are saved and loaded with it, as Whisper's heads are, and a call may switch the window off."""
    model = sharp_tts()
    given = arguments()
    expected = model.generate(**given).audio_codes
    heads, window = given.pop("alignment_heads"), given.pop("alignment_window")
    plain = model.generate(**given).audio_codes
    model.generation_config.update(alignment_heads=heads, alignment_window=window)
    model.generation_config.alignment_heads, model.generation_config.alignment_window = heads, list(window)
    model.generation_config.save_pretrained(tmp_path)
    model.generation_config = GenerationConfig.from_pretrained(tmp_path)
    assert torch.equal(model.generate(**given).audio_codes, expected)
    assert torch.equal(model.generate(**given, alignment_window=None).audio_codes, plain)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"alignment_window": (1,)}, "`alignment_window` must be two"),
        ({"alignment_window": (1, 0)}, "`alignment_window` must be two"),
        ({"alignment_window": (-1, 2)}, "`alignment_window` must be two"),
        ({"alignment_heads": None}, "`alignment_window` needs `alignment_heads`"),
        ({"alignment_heads": [(99, 0)]}, "`alignment_heads` must be pairs of a layer below"),
        ({"alignment_heads": [(0, 99)]}, "`alignment_heads` must be pairs of a layer below"),
        ({"use_cache": False}, "`alignment_window` needs `use_cache`"),
        ({"prompt_text_mask": None}, "`prompt_text_mask` must be a tensor .* with `alignment_window`"),
        ({"prompt_text_mask": torch.ones(2, 9)}, "`prompt_text_mask` leaves no symbols"),
    ],
)
def test_what_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_tts().generate(**arguments(**changes))


def test_without_a_prompt_it_begins_at_the_first_symbol():
    model = sharp_tts()
    given = arguments()
    for name in ("prompt_codes", "prompt_codes_mask", "prompt_text_mask"):
        del given[name]
    outputs = model.generate(**given)
    assert outputs.audio_codes.shape == (2, QUANTIZERS, 12)
