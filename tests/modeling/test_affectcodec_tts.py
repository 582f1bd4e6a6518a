import math
import subprocess
import sys

import pytest
import torch
from tiny_tts import CODES, QUANTIZERS, random_inputs, tiny_tts, tiny_tts_config
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForTextToWaveform,
    DynamicCache,
    PreTrainedConfig,
    StaticCache,
)

from hf_affectcodec.modeling.cache_affectcodec_tts import AffectCodecTTSCache
from hf_affectcodec.modeling.configuration_affectcodec_tts import AffectCodecTTSConfig
from hf_affectcodec.modeling.inputs_affectcodec_tts import prompt_sequence, speech_sequence
from hf_affectcodec.modeling.layers_affectcodec_tts import AffectCodecTTSAdaptiveLayerNorm, keep_some
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration


MODEL = tiny_tts()
STRIDING = tiny_tts(text_position_stride=2.7)
EOS, BOS, TEXT = CODES, CODES + 1, CODES + 2


def millions(module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_paper_configuration_has_the_paper_s_size():
    with torch.device("meta"):
        model = AffectCodecTTSForConditionalGeneration(AffectCodecTTSConfig())
    width, ff = 1024, 4096
    layer = 4 * (width**2 + width) + (2 * width * ff + ff + width) + 4 * width
    adaptive = 2 * (width * 2 * width + 2 * width)
    assert millions(model.ar.model.layers) * 1e6 == 12 * layer and abs(millions(model.ar.model.layers) - 151) < 0.3
    blocks = (millions(model.nar.layers) + millions(model.nar.norm)) * 1e6
    assert round(blocks) == 12 * (layer + adaptive) + adaptive // 2 + 2 * width and abs(blocks / 1e6 - 204) < 0.5
    # Tables: codes, end, beginning, text, positions' scales, head; text, 8 codebooks (which are the heads), 7 stages, scales.
    assert round(millions(model.ar) * 1e6 - 12 * layer) == (1026 + 512 + 1025) * width + 2 + 2 * width
    assert round(millions(model.nar) * 1e6 - blocks) == (512 + 8 * 1024 + 7) * width + 2


# A second implementation in loops over positions and heads, as PAPERS.md A6 tells it: what sees what is a function of two
# positions, and everything else is written out.


def slow_norm(x, weight, bias, eps):
    out = []
    for row in x:
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out.append([(v - mean) / math.sqrt(variance + eps) * w + b for v, w, b in zip(row, weight, bias, strict=True)])
    return torch.tensor(out, dtype=torch.float64)


def slow_position(position, width):
    pair = [
        (math.sin(position / 10000 ** (c / width)), math.cos(position / 10000 ** (c / width)))
        for c in range(0, width, 2)
    ]
    return torch.tensor([value for both in pair for value in both], dtype=torch.float64)


def slow_layer(x, state, prefix, norm, sees, heads):
    def linear(name, rows):
        return rows @ state[f"{prefix}{name}.weight"].T + state[f"{prefix}{name}.bias"]

    normed = norm(x, f"{prefix}self_attn_norm.")
    query, key, value = (linear(f"self_attn.{name}_proj", normed) for name in "qkv")
    size = x.shape[1] // heads
    attended = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            seen = [j for j in range(len(x)) if sees(i, j)]
            scores = [float(query[i, part] @ key[j, part]) / math.sqrt(size) for j in seen]
            powers = [math.exp(score - max(scores)) for score in scores]
            for power, j in zip(powers, seen, strict=True):
                attended[i, part] += power / sum(powers) * value[j, part]
    x = x + linear("self_attn.o_proj", attended)
    hidden = linear("mlp.up_proj", norm(x, f"{prefix}mlp_norm."))
    return x + linear("mlp.down_proj", hidden.clamp(min=0))


def double(module):
    return {name: value.detach().double() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("model", [MODEL, STRIDING], ids=["paper", "strided text"])
def test_ar_is_the_slow_transformer(model):
    config, state = model.config, double(model.ar)
    phonemes, codes = [3, 11, 11, 7], [5, 60, 0, 5, 31]
    ids = [TEXT + p for p in phonemes] + [BOS] + codes
    texts = len(phonemes)
    rows = []
    for i, token in enumerate(ids):
        position, scale = (i * config.text_position_stride, "text") if i < texts else (i - texts, "codes")
        embed = state["model.embed_tokens.weight"][token] * math.sqrt(config.hidden_size)
        rows.append(embed + state[f"model.position_scales.{scale}"] * slow_position(position, config.hidden_size))
    x = torch.stack(rows)

    def norm(x, name):
        return slow_norm(x, state[f"{name}weight"], state[f"{name}bias"], config.layer_norm_eps)

    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        x = slow_layer(x, state, prefix, norm, lambda i, j: j < texts if i < texts else j <= i, 4)
    expected = norm(x, "model.norm.") @ state["code_head.weight"].T
    with torch.no_grad():
        got = model.ar(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got[:, : CODES + 1].double(), expected, atol=2e-5, rtol=2e-5)
    assert (got[:, CODES + 1 :] == -math.inf).all()

    with torch.no_grad():
        outputs = model(torch.tensor([phonemes]), torch.tensor(codes).repeat(1, 8, 1))
    torch.testing.assert_close(outputs.logits[0].double(), expected[texts:], atol=2e-5, rtol=2e-5)
    # Beginning -> first code, ..., last code -> end.
    loss = sum(-expected[texts + i].log_softmax(-1)[target] for i, target in enumerate([*codes, EOS])) / 6
    assert float(outputs.loss) == pytest.approx(float(loss), rel=1e-5)
    assert outputs.labels.tolist() == [[*codes, EOS]]
    with torch.no_grad():
        summed = model(torch.tensor([phonemes]), torch.tensor(codes).repeat(1, 8, 1), loss_reduction="sum").loss
    assert float(summed) == pytest.approx(6 * float(loss), rel=1e-5)


@pytest.mark.parametrize("codebook, model", [(1, MODEL), (5, MODEL), (7, MODEL), (5, STRIDING)])
def test_nar_is_the_slow_transformer(codebook, model):
    config, state = model.config, double(model.nar)
    phonemes, _, codes, _ = random_inputs([3], [6])
    prompt = [True, True, False, False, False, False]
    rows = [
        state["text_embedding.weight"][p] * math.sqrt(config.hidden_size)
        + state["position_scales.text"] * slow_position(i * config.text_position_stride, config.hidden_size)
        for i, p in enumerate(phonemes[0].tolist())
    ]
    for frame in range(6):
        layers = range(QUANTIZERS) if prompt[frame] else range(codebook)
        embed = sum(state[f"code_embeddings.{k}.weight"][int(codes[0, k, frame])] for k in layers)
        position = state["position_scales.codes"] * slow_position(frame, config.hidden_size)
        rows.append(embed * math.sqrt(config.hidden_size) + position)
    x = torch.stack(rows)
    stage = state["stage_embedding.weight"][codebook - 1]

    def norm(x, name):
        both = state[f"{name}modulation.weight"] @ stage + state[f"{name}modulation.bias"]
        normed = slow_norm(x, state[f"{name}norm.weight"], state[f"{name}norm.bias"], config.layer_norm_eps)
        return (1 + both[: config.hidden_size]) * normed + both[config.hidden_size :]

    for layer in range(config.num_hidden_layers):
        x = slow_layer(x, state, f"layers.{layer}.", norm, lambda i, j: True, 4)
    expected = norm(x, "norm.")[3:] @ state[f"code_embeddings.{codebook}.weight"].T
    with torch.no_grad():
        outputs = model(phonemes, codes, stage="nar", codebooks=(codebook,), prompt_mask=torch.tensor([prompt]))
    torch.testing.assert_close(outputs.logits[0, 0].double(), expected, atol=5e-5, rtol=5e-5)
    loss = sum(-expected[f].log_softmax(-1)[codes[0, codebook, f]] for f in range(2, 6)) / 4
    assert float(outputs.loss) == pytest.approx(float(loss), rel=1e-4)


def test_adaptive_norm_by_hand():
    norm = AffectCodecTTSAdaptiveLayerNorm(tiny_tts_config(hidden_size=2, num_attention_heads=1, layer_norm_eps=0.0))
    with torch.no_grad():
        norm.modulation.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, -1]]))
        norm.modulation.bias.copy_(torch.tensor([-1.0, 0, 0, 0]))
        # s = (1, 2): a = 1 + (1 - 1, 2), b = (1 + 2, -2); LN(1, 3) = (-1, 1), LN(4, 0) = (1, -1).
        got = norm(torch.tensor([[1.0, 3], [4, 0]]), torch.tensor([1.0, 2]))
    torch.testing.assert_close(got, torch.tensor([[2.0, 1], [4, -5]]))


def test_a_new_model_starts_near_plain_norms():
    model = AffectCodecTTSForConditionalGeneration(tiny_tts_config())
    hidden, stage = torch.randn(1, 5, 32), model.nar.stage_embedding.weight[2]
    plain = torch.nn.functional.layer_norm(hidden, (32,))
    assert 0.005 < float(((model.nar.norm(hidden, stage) - plain).norm() / plain.norm()).detach()) < 0.1
    assert 0.24 < float(model.nar.stage_embedding.weight.detach().std()) < 0.36
    assert model.nar.norm.modulation.bias.abs().max() == 0
    assert 0.5 < float(model.nar.norm.modulation.weight.detach().std()) / 0.02 < 2
    for table in (model.ar.model.embed_tokens, model.nar.code_embeddings[3]):
        assert 0.9 < float(table.weight.detach().square().sum(-1).mean()) < 1.1
    assert model.ar.model.position_scales.text.tolist() == 1


def test_initialisation_lives_in_init_weights():
    config = tiny_tts_config()
    fresh = AffectCodecTTSForConditionalGeneration(config).state_dict()
    from_nothing = AffectCodecTTSForConditionalGeneration.from_pretrained(
        None, config=config, state_dict={}
    ).state_dict()
    for name, a in fresh.items():
        b = from_nothing[name]
        if a.unique().numel() <= 2:
            assert torch.equal(a, b), name
        elif a.numel() > 200:
            assert float(b.std()) == pytest.approx(float(a.std()), rel=0.3), name


def test_ar_sees_neither_the_future_nor_codes_from_text():
    texts, frames = 4, 6
    ids = torch.cat(
        (torch.randint(TEXT, TEXT + 20, (1, texts)), torch.tensor([[BOS]]), torch.randint(CODES, (1, frames))), 1
    )
    embeds = (MODEL.ar.model.embed_tokens(ids) * MODEL.ar.model.embed_scale).detach().requires_grad_()
    kinds = MODEL.ar.model.token_types(ids)
    assert kinds.tolist() == [[0] * texts + [1] * (frames + 1)]
    hidden = MODEL.ar.model(inputs_embeds=embeds, token_type_ids=kinds).last_hidden_state
    torch.testing.assert_close(hidden, MODEL.ar.model(input_ids=ids).last_hidden_state)
    for i in range(ids.shape[1]):
        (gradient,) = torch.autograd.grad(hidden[0, i].square().sum(), embeds, retain_graph=True)
        sees = [bool(row.abs().max() > 0) for row in gradient[0]]
        assert sees == [j < texts if i < texts else j <= i for j in range(ids.shape[1])], i


@pytest.mark.parametrize("codebook", [1, 4, 7])
def test_nar_stage_does_not_see_the_codebooks_it_does_not_know(codebook):
    model = tiny_tts()
    looked_up = {}
    for k, table in enumerate(model.nar.code_embeddings):

        def keep(_, __, output, k=k):
            if output.requires_grad:
                looked_up[k] = output
                output.retain_grad()

        table.register_forward_hook(keep)
    phonemes, mask, codes, codes_mask = random_inputs([4, 2], [7, 5])
    prompt = torch.tensor([[True] * 2 + [False] * 5, [True] * 3 + [False] * 4])
    arguments = {"attention_mask": mask, "audio_codes_mask": codes_mask, "prompt_mask": prompt}
    logits = model.nar(phonemes, codes, codebook, **arguments).logits
    logits[codes_mask & ~prompt].square().sum().backward()
    for k in range(QUANTIZERS):
        seen = looked_up[k].grad.abs().amax(-1) > 0
        expected = codes_mask if k < codebook else codes_mask & prompt
        assert torch.equal(seen, expected), k
    changed = codes.clone()
    changed[:, codebook:] = torch.where(prompt[:, None], codes[:, codebook:], (codes[:, codebook:] + 1) % CODES)
    with torch.no_grad():
        assert torch.equal(model.nar(phonemes, changed, codebook, **arguments).logits, logits)


def test_each_nar_head_is_the_table_of_the_codebook_it_predicts():
    assert not [name for name in MODEL.nar.state_dict() if "head" in name]
    model = tiny_tts()
    phonemes, _, codes, _ = random_inputs([4], [6])
    for codebook in range(1, QUANTIZERS):
        model.zero_grad()
        model(phonemes, codes, stage="nar", codebooks=(codebook,)).loss.backward()
        used = [k for k, table in enumerate(model.nar.code_embeddings) if table.weight.grad is not None]
        assert used == list(range(codebook + 1))
    hidden = {}
    model.nar.norm.register_forward_hook(lambda _, __, output: hidden.update(output=output))
    logits = model(phonemes, codes, stage="nar", codebooks=(3,)).logits[0, 0]
    torch.testing.assert_close(logits, hidden["output"][0] @ model.nar.code_embeddings[3].weight.T)


def test_padding_costs_nothing_and_changes_nothing():
    """An item's loss alone is its share of the batch's, whatever lies under the padding; nothing flows back from there."""
    phonemes, mask, codes, codes_mask = random_inputs([5, 2, 3], [9, 4, 7])
    prompt = torch.arange(9) < torch.tensor([3, 2, 2])[:, None]
    for stage, extra in (("ar", {}), ("nar", {"codebooks": (1, 4), "prompt_mask": prompt})):
        batch = MODEL(phonemes, codes, mask, codes_mask, stage=stage, loss_reduction="sum", **extra)
        alone = 0.0
        for row, (texts, frames) in enumerate(zip([5, 2, 3], [9, 4, 7], strict=True)):
            own = {**extra, "prompt_mask": prompt[row : row + 1, :frames]} if extra else {}
            item = MODEL(
                phonemes[row : row + 1, 5 - texts :], codes[row : row + 1, :, :frames],
                stage=stage, loss_reduction="sum", **own,
            )  # fmt: skip
            alone += float(item.loss.detach())
            steps = frames + 1 if stage == "ar" else frames
            torch.testing.assert_close(batch.logits[row, ..., :steps, :], item.logits[0], atol=3e-5, rtol=1e-5)
        assert float(batch.loss.detach()) == pytest.approx(alone, rel=1e-5)
        assert int((batch.labels != -100).sum()) == (23 if stage == "ar" else 2 * (20 - 7))
        mean = MODEL(phonemes, codes, mask, codes_mask, stage=stage, **extra).loss.detach()
        per_token = MODEL(phonemes, codes, mask, codes_mask, stage=stage, num_items_in_batch=10, **extra).loss.detach()
        assert float(mean) == pytest.approx(alone / int((batch.labels != -100).sum()), rel=1e-5)
        assert float(per_token) == pytest.approx(alone / 10, rel=1e-5)

        other = codes.masked_fill(~codes_mask[:, None], 17)
        text = phonemes.masked_fill(~mask, 13)
        changed = MODEL(text, other, mask, codes_mask, stage=stage, loss_reduction="sum", **extra)
        assert float(changed.loss.detach()) == pytest.approx(alone, rel=1e-5)


def test_text_padding_may_lie_on_either_side():
    phonemes, mask, codes, codes_mask = random_inputs([5, 2], [6, 4])
    right = phonemes.clone()
    right[1, :2] = phonemes[1, 3:]
    for stage in ("ar", "nar"):
        a = MODEL(phonemes, codes, mask, codes_mask, stage=stage)
        b = MODEL(right, codes, mask.flip(1), codes_mask, stage=stage)
        assert torch.equal(a.labels, b.labels)
        where = a.labels != -100
        torch.testing.assert_close(a.logits[where], b.logits[where], atol=1e-5, rtol=1e-5)


def test_sequences_by_hand():
    config = MODEL.config
    phonemes, mask = torch.tensor([[1, 2], [9, 3]]), torch.tensor([[1, 1], [0, 1]]).bool()
    codes, codes_mask = torch.tensor([[7, 8, 9], [4, 50, 51]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    ids, ids_mask, labels = speech_sequence(config, phonemes, mask, codes, codes_mask, None)
    assert ids.tolist() == [[67, 68, 65, 7, 8, 9, 64], [75, 69, 65, 4, 64, 64, 64]]
    assert ids_mask.tolist() == [[1] * 7, [0, 1, 1, 1, 1, 0, 0]]
    assert labels.tolist() == [[-100] * 3 + [7, 8, 9, 64], [-100] * 3 + [4, 64, -100, -100]]
    masked = speech_sequence(config, phonemes, mask, codes, codes_mask, torch.tensor([[0, 1, 1], [0, 0, 0]]).bool())[2]
    assert masked.tolist() == [[-100] * 4 + [8, 9, 64], [-100] * 4 + [64, -100, -100]]
    ids, ids_mask = prompt_sequence(config, phonemes, mask, codes, codes_mask)
    assert ids.tolist() == [[67, 68, 65, 7, 8, 9], [75, 69, 64, 64, 65, 4]]
    assert ids_mask.tolist() == [[1] * 6, [0, 1, 0, 0, 1, 1]]
    ids, ids_mask = prompt_sequence(config, phonemes, mask, codes[:, :0], codes_mask[:, :0])
    assert ids.tolist() == [[67, 68, 65], [75, 69, 65]] and ids_mask.tolist() == [[1, 1, 1], [0, 1, 1]]


def decode_stepwise(model, ids, mask, cache, start):
    """Logits of every position from `start` on: the first `start` in one call, then one call a code."""
    steps = []
    for end in range(start, ids.shape[1] + 1):
        begin = 0 if end == start else end - 1
        inputs = model.prepare_inputs_for_generation(
            ids[:, :end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=cache is not None,
            next_sequence_length=end - begin if cache is not None else None,
        )  # fmt: skip
        with torch.no_grad():
            steps.append(model(**inputs).logits[:, -1, : CODES + 1])
    return torch.stack(steps, dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_caches_change_nothing(attention):
    """Whole sequence == no cache == the growing caches == static cache; each item of a left-padded batch == the item alone."""
    model = tiny_tts().ar
    model.set_attn_implementation(attention)
    assert model.config._attn_implementation == attention
    phonemes, mask, codes, _ = random_inputs([5, 2, 3], [6, 6, 6])
    prompt_mask = torch.arange(6) < torch.tensor([6, 3, 4])[:, None]
    ids, ids_mask = prompt_sequence(model.config, phonemes, mask, codes[:, 0], prompt_mask)
    more = torch.randint(CODES, (3, 4), generator=torch.Generator().manual_seed(1))
    ids, ids_mask = torch.cat((ids, more), 1), torch.cat((ids_mask, torch.ones_like(more)), 1)
    start = ids.shape[1] - 4
    with torch.no_grad():
        whole = model(ids, attention_mask=ids_mask).logits[:, start - 1 :, : CODES + 1]
    static = StaticCache(config=model.config, max_cache_len=ids.shape[1] + 3)
    for cache in (None, DynamicCache(config=model.config), AffectCodecTTSCache(model.config), static):
        torch.testing.assert_close(decode_stepwise(model, ids, ids_mask, cache, start), whole, atol=1e-5, rtol=1e-5)
    assert static.get_seq_length() == ids.shape[1]
    for row in range(3):
        own = ids[row : row + 1, ids_mask[row].bool()]
        with torch.no_grad():
            alone = model(own).logits[0, -5:, : CODES + 1]
        torch.testing.assert_close(whole[row], alone, atol=1e-5, rtol=1e-5)


def test_eager_is_sdpa():
    phonemes, mask, codes, codes_mask = random_inputs([5, 2, 3], [9, 4, 7])
    model = tiny_tts()
    for stage in ("ar", "nar"):
        logits = {}
        for attention in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
            assert model.config._attn_implementation == attention
            outputs = model(phonemes, codes, mask, codes_mask, stage=stage)
            logits[attention] = outputs.logits[outputs.labels != -100]
        torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-5)
    outputs = model.ar.model(torch.tensor([[70, 71, BOS, 3]]), output_attentions=True, output_hidden_states=True)
    assert len(outputs.attentions) == 2 and len(outputs.hidden_states) == 3
    assert (outputs.attentions[0][0, 0] > 0).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_dropout_keeps_each_element_by_its_chance(p):
    values = torch.randn(257, 1001, requires_grad=True)  # no multiple of the four elements of a draw
    torch.manual_seed(0)
    outputs = keep_some(values, p, training=True)
    kept = outputs != 0
    torch.testing.assert_close(outputs[kept], values[kept] / (1 - p))
    # Four standard deviations; also among the elements of one draw, and of its neighbours.
    for part in (kept, kept.flatten()[0::4], kept.flatten()[3::4]):
        assert abs(float(part.float().mean()) - (1 - p)) < 4 * (p * (1 - p) / part.numel()) ** 0.5
    flat = kept.flatten().float() - (1 - p)
    for lag in (1, 2, 3, 4):
        assert abs(float((flat[lag:] * flat[:-lag]).mean())) < 4 * p * (1 - p) / flat.numel() ** 0.5
    outputs.sum().backward()
    torch.testing.assert_close(values.grad, kept / (1 - p))
    torch.manual_seed(0)
    assert torch.equal(keep_some(values, p, training=True), outputs)
    half = keep_some(values.detach().bfloat16(), p, training=True)
    assert half.dtype == torch.bfloat16 and abs(float((half != 0).float().mean()) - (1 - p)) < 0.01


def test_dropout_at_its_ends_and_at_rest():
    values = torch.randn(3, 5)
    assert torch.equal(keep_some(values, 0.5, training=False), values)
    assert torch.equal(keep_some(values, 0.0, training=True), values)
    assert torch.equal(keep_some(values, 1.0, training=True), torch.zeros(3, 5))
    assert int((keep_some(torch.ones(10_000), 1 - 1e-9, training=True) != 0).sum()) <= 3
    assert keep_some(torch.ones(0, 4), 0.5, training=True).shape == (0, 4)


def test_attentions_of_both_stages():
    phonemes, mask, codes, codes_mask = random_inputs([5, 2, 3], [9, 4, 7])
    model = tiny_tts()
    model.set_attn_implementation("eager")
    for stage, length, options in (("ar", 5 + 9 + 2, {}), ("nar", 5 + 9, {"codebooks": (1, 3)})):
        outputs = model(phonemes, codes, mask, codes_mask, stage=stage, output_attentions=True, **options)
        assert len(outputs.attentions) == 2
        heads = model.config.num_attention_heads
        shape = (3, 2, heads, length, length) if stage == "nar" else (3, heads, length, length)
        assert outputs.attentions[0].shape == shape
        weights = outputs.attentions[1].movedim(0, -3)
        assert float(weights[..., 1, 5:9, :3].detach().abs().max()) == 0  # no frame looks at padding
        torch.testing.assert_close(weights[..., :9, :].sum(-1), torch.ones(weights.shape[:-2] + (9,)))
        assert model(phonemes, codes, mask, codes_mask, stage=stage, **options).attentions is None
        torch.testing.assert_close(
            outputs.logits, model(phonemes, codes, mask, codes_mask, stage=stage, **options).logits
        )
    own = model.nar(phonemes, codes, 3, attention_mask=mask, audio_codes_mask=codes_mask, output_attentions=True)
    torch.testing.assert_close(outputs.attentions[0][:, 1], own.attentions[0])


def test_cache_needs_positions_and_whole_sequences():
    cache = MODEL.ar(torch.tensor([[70, 71, BOS]]), use_cache=True).past_key_values
    with pytest.raises(ValueError, match="position_ids"):
        MODEL.ar(torch.tensor([[5]]), past_key_values=cache)
    with pytest.raises(ValueError, match="input_ids"):
        MODEL.ar.prepare_inputs_for_generation(torch.tensor([[5]]), attention_mask=torch.ones(1, 4))
    with pytest.raises(ValueError, match="token_type_ids"):
        MODEL.ar(inputs_embeds=torch.zeros(1, 3, 32))
    with pytest.raises(ValueError, match="loss_reduction"):
        MODEL.ar(torch.tensor([[70, BOS, 3]]), labels=torch.tensor([[-100, -100, 3]]), loss_reduction="none")


@pytest.mark.parametrize("stage", ["ar", "nar"])
def test_gradient_checkpointing_changes_nothing(stage):
    phonemes, mask, codes, codes_mask = random_inputs([5, 2], [6, 4])
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = tiny_tts(dropout=0.2).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        part = model.ar if stage == "ar" else model.nar
        layer = part.model.layers[0] if stage == "ar" else part.layers[0]
        count = [0]
        layer.mlp.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        torch.manual_seed(3)
        model(
            phonemes, codes, mask, codes_mask, stage=stage, **({} if stage == "ar" else {"codebooks": (2,)})
        ).loss.backward()
        gradients.append({name: p.grad for name, p in part.named_parameters() if p.grad is not None})
        calls.append(count[0])
    assert calls == [1, 2]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 30
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5)


def test_no_parameter_is_idle():
    model = tiny_tts(dropout=0.1).train()
    phonemes, _, codes, _ = random_inputs([5], [6])
    prompt = torch.tensor([[True, True] + [False] * 4])
    model(phonemes, codes).loss.backward()
    model(phonemes, codes, stage="nar", prompt_mask=prompt).loss.backward()
    assert [name for part in (model.ar, model.nar) for name, p in part.named_parameters() if p.grad is None] == []


IN_A_NEW_PROCESS = """
import sys, torch
from transformers import AutoConfig, AutoModelForTextToWaveform
from hf_affectcodec.modeling.configuration_affectcodec_tts import AffectCodecTTSConfig
from hf_affectcodec.modeling.modeling_affectcodec_tts import AffectCodecTTSForConditionalGeneration
AutoConfig.register("affectcodec_tts", AffectCodecTTSConfig, exist_ok=True)
AutoModelForTextToWaveform.register(AffectCodecTTSConfig, AffectCodecTTSForConditionalGeneration, exist_ok=True)
model = AutoModelForTextToWaveform.from_pretrained(sys.argv[1])
out = model.generate(torch.tensor([[4, 2, 9]]), max_new_frames=6, do_sample=False)
torch.save([out.audio[0], out.audio_codes], sys.argv[2])
"""


def test_save_and_load(tmp_path):
    model = tiny_tts()
    model.generation_config.top_p = 0.8
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    loaded, info = AffectCodecTTSForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert loaded.generation_config.top_p == 0.8 and loaded.generation_config.max_new_tokens == 1000
    assert loaded.nar.code_embeddings[3].weight.data_ptr() != loaded.nar.code_embeddings[4].weight.data_ptr()

    expected = model.generate(torch.tensor([[4, 2, 9]]), max_new_frames=6, do_sample=False)
    result = tmp_path / "result.pt"
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, folder, result], check=True, timeout=120)
    audio, codes = torch.load(result)
    assert torch.equal(codes, expected.audio_codes)
    torch.testing.assert_close(audio, expected.audio[0], atol=1e-6, rtol=1e-5)


def test_parts_save_and_load_alone(tmp_path):
    for name in ("ar", "nar"):
        part = getattr(MODEL, name)
        part.save_pretrained(tmp_path / name)
        loaded = type(part).from_pretrained(tmp_path / name)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in part.state_dict().items())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loads_in_half_precision_and_with_either_attention(attention, tmp_path):
    tiny_tts().save_pretrained(tmp_path)
    model = AffectCodecTTSForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation=attention
    )
    assert model.ar.config._attn_implementation == model.nar.config._attn_implementation == attention
    assert model.ar.dtype == torch.bfloat16 and model.codec_model.quantizer.layers[0].embed.dtype == torch.float32
    outputs = model.generate(torch.tensor([[4, 2, 9]]), max_new_frames=5, seed=0)
    assert outputs.audio[0].dtype == torch.float32 and torch.isfinite(outputs.audio[0]).all()
    phonemes, mask, codes, codes_mask = random_inputs([5, 2], [6, 4])
    for stage in ("ar", "nar"):
        assert model(phonemes, codes, mask, codes_mask, stage=stage).loss.dtype == torch.float32


def test_config_round_trip_and_no_unknown_entries(tmp_path):
    AutoConfig.register("affectcodec_tts", AffectCodecTTSConfig, exist_ok=True)
    AutoModelForTextToWaveform.register(AffectCodecTTSConfig, AffectCodecTTSForConditionalGeneration, exist_ok=True)
    config = tiny_tts_config(dropout=0.125)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AffectCodecTTSConfig and loaded.codec_config.model_type == "affectcodec"
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    assert (loaded.codebook_size, loaded.num_quantizers, loaded.frame_rate) == (64, 8, 50.0)
    assert (loaded.eos_token_id, loaded.bos_token_id, loaded.text_token_offset, loaded.vocab_size) == (64, 65, 66, 86)
    declared = set(AffectCodecTTSConfig.__annotations__) | set(PreTrainedConfig().to_dict())
    assert set(loaded.to_dict()) <= declared
    assert type(AutoModelForTextToWaveform.from_config(config)) is AffectCodecTTSForConditionalGeneration


@pytest.mark.parametrize(
    "name, value",
    [("hidden_size", 30), ("dropout", 1.0), ("min_prompt_frames", 11), ("tie_word_embeddings", True),
     ("eos_token_id", 3), ("num_hidden_layers", 0), ("text_position_stride", 0.0), ("codec_config", {"num_quantizers": 1})],
)  # fmt: skip
def test_bad_configuration_is_named(name, value):
    with pytest.raises(Exception, match=name):
        tiny_tts_config(**{name: value})


def test_mean_loss_is_cross_entropy_of_what_is_returned():
    phonemes, mask, codes, codes_mask = random_inputs([5, 2], [6, 4])
    for stage in ("ar", "nar"):
        outputs = MODEL(phonemes, codes, mask, codes_mask, stage=stage)
        expected = cross_entropy(outputs.logits.flatten(0, -2), outputs.labels.flatten())
        assert outputs.loss.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        as_tuple = MODEL(phonemes, codes, mask, codes_mask, stage=stage, return_dict=False)
        assert len(as_tuple) == 3 and torch.equal(as_tuple[0], outputs.loss)
