"""Graph fusion against torch_geometric, torch's own layers, slow loops, and labels that only two modalities tell together."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_affectcodec.modeling import attention_graph_fusion
from hf_affectcodec.modeling.attention_graph_fusion import (
    GraphFusionAttentivePooling,
    GraphFusionEncoderLayer,
    GraphFusionGraphAttention,
    GraphFusionGraphAttentionV2,
    GraphFusionMultiHeadAttention,
    masked_mean,
    masked_statistics,
)
from hf_affectcodec.modeling.blocks_graph_fusion import GraphFusionHcam
from hf_affectcodec.modeling.coattention_graph_fusion import GraphFusionCoAttention
from hf_affectcodec.modeling.configuration_graph_fusion import FUSIONS, GraphFusionConfig
from hf_affectcodec.modeling.modeling_graph_fusion import (
    GraphFusionForAudioClassification,
    GraphFusionSwigluHead,
    focal_loss,
)


SIZES = {"feature_sizes": {"audio": 6, "text": 5}, "token_sizes": {"f0": 9}, "num_labels": 3}
TINY = {**SIZES, "hidden_size": 16, "intermediate_size": 24, "head_hidden_size": 12}


def tiny_config(**changes) -> GraphFusionConfig:
    return GraphFusionConfig(**{**TINY, **changes})


def tiny_model(**changes) -> GraphFusionForAudioClassification:
    torch.manual_seed(0)
    model = GraphFusionForAudioClassification(tiny_config(**changes)).eval()
    with torch.no_grad():
        for absence in model.absences.values():
            absence.vector.normal_()
    return model


def clip(audio: int, text: int, f0: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "audio": torch.randn(1, audio, 6, generator=generator),
        "text": torch.randn(1, text, 5, generator=generator),
        "f0": torch.randint(8, (1, f0), generator=generator),
    }


def padded(clips: list[dict], extra: int = 0) -> tuple[dict, dict]:
    """A batch of clips, what is masked filled with what would be noticed; a clip may lack modalities."""
    features, masks = {}, {}
    for name in ("audio", "text", "f0"):
        given = {index: item[name][0] for index, item in enumerate(clips) if name in item}
        if not given:
            continue
        example = next(iter(given.values()))
        shape = (len(clips), extra + max(map(len, given.values())), *example.shape[1:])
        features[name] = torch.full(shape, 3) if name == "f0" else torch.full(shape, math.nan)
        masks[name] = torch.zeros(shape[:2], dtype=torch.long)
        for index, values in given.items():
            features[name][index, : len(values)] = values
            masks[name][index, : len(values)] = 1
    return features, masks


def complete_graph(nodes: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(nodes), torch.arange(nodes)).T


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("version", ["gat", "gatv2"])
@pytest.mark.parametrize("block", [2**25, 1])
def test_graph_attention_is_torch_geometrics(version, heads, block, monkeypatch):
    geometric = pytest.importorskip("torch_geometric.nn")
    monkeypatch.setattr(attention_graph_fusion, "PAIRWISE_BLOCK", block)
    torch.manual_seed(1)
    nodes, size = 7, 8
    if version == "gat":
        ours = GraphFusionGraphAttention(size, heads, 0.2)
        theirs = geometric.GATConv(size, size // heads, heads, bias=False, add_self_loops=False)
        pairs = [(ours.proj.weight, theirs.lin.weight), (ours.receiver, theirs.att_dst), (ours.sender, theirs.att_src)]
    else:
        ours = GraphFusionGraphAttentionV2(size, heads, 0.2)
        theirs = geometric.GATv2Conv(size, size // heads, heads, bias=False, add_self_loops=False)
        pairs = [
            (ours.sender_proj.weight, theirs.lin_l.weight),
            (ours.receiver_proj.weight, theirs.lin_r.weight),
            (ours.attention, theirs.att),
        ]
    ours, theirs = ours.double(), theirs.double()
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other.normal_(std=0.5).view(mine.shape))
    x = torch.randn(1, nodes, size, dtype=torch.double, requires_grad=True)
    other_x = x.detach()[0].clone().requires_grad_()
    weights = torch.randn(nodes, size, dtype=torch.double)
    out = ours(x)[0][0]
    expected = theirs(other_x, complete_graph(nodes))
    torch.testing.assert_close(out, expected)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad[0], other_x.grad)
    for mine, other in pairs:
        assert mine.grad.abs().max() > 1e-3
        torch.testing.assert_close(mine.grad, other.grad.view(mine.shape))


@pytest.mark.parametrize("layer_class", [GraphFusionGraphAttention, GraphFusionGraphAttentionV2])
def test_masked_nodes_are_not_in_the_graph(layer_class):
    torch.manual_seed(0)
    layer = layer_class(8, 2, 0.2)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    out, weights = layer(x, mask, output_attentions=True)
    torch.testing.assert_close(out[0, :3], layer(x[:1, :3])[0][0])
    assert not out[1].any() and not weights[1].any() and not weights[0, ..., 3:].any()
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 5))


def test_co_attention_is_the_slow_loop():
    torch.manual_seed(0)
    layer = GraphFusionCoAttention(["audio", "text", "f0"], 4)
    states = {"audio": torch.randn(2, 5, 4), "text": torch.randn(2, 3, 4), "f0": torch.randn(2, 6, 4)}
    lengths = {"audio": [5, 2], "text": [2, 3], "f0": [6, 0]}
    masks = {n: torch.arange(states[n].shape[1]) < torch.tensor(lengths[n])[:, None] for n in states}
    out, attentions = layer(states, masks, output_attentions=True)
    assert len(attentions) == 6
    for name, values in states.items():
        for item in range(2):
            for step in range(values.shape[1]):
                expected = values[item, step].clone()
                for other in states.keys() - {name}:
                    scores = [
                        sum(
                            (layer.projs[name].weight @ values[item, step])[k]
                            * (layer.projs[other].weight @ states[other][item, j])[k]
                            for k in range(4)
                        ).exp()
                        for j in range(lengths[other][item])
                    ]
                    for j, score in enumerate(scores):
                        expected += score / sum(scores) * states[other][item, j]
                torch.testing.assert_close(out[name][item, step], expected)


def copied_attention(ours: GraphFusionMultiHeadAttention, theirs: nn.MultiheadAttention):
    projs = (ours.q_proj, ours.k_proj, ours.v_proj)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([proj.weight for proj in projs]))
        theirs.in_proj_bias.copy_(torch.cat([proj.bias for proj in projs]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())


def test_encoder_layer_is_torchs():
    torch.manual_seed(0)
    config = tiny_config(num_attention_heads=4)
    ours = GraphFusionEncoderLayer(config).eval()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.5, batch_first=True).eval()
    copied_attention(ours.attention, theirs.self_attn)
    for mine, other in (
        (ours.attention_norm, theirs.norm1),
        (ours.feed_forward_norm, theirs.norm2),
        (ours.up_proj, theirs.linear1),
        (ours.down_proj, theirs.linear2),
    ):
        other.load_state_dict(mine.state_dict())
    x, mask = torch.randn(2, 5, 16), torch.arange(5) < torch.tensor([[5], [3]])
    expected = theirs(x, src_key_padding_mask=~mask)
    for output_attentions in (False, True):
        torch.testing.assert_close(ours(x, mask, output_attentions)[0][mask], expected[mask])


def test_attention_to_nothing_is_zero():
    layer = GraphFusionMultiHeadAttention(8, 2, 0.0)
    x = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    for output_attentions in (False, True):
        out, _ = layer(x, x, mask, output_attentions)
        assert out[0].any() and not out[1].any()
        out.sum().backward()
        assert torch.isfinite(x.grad).all()


def test_hcam_is_made_of_torchs_layers():
    """The order of updates: audio sees text's self-attended steps, text sees what audio has become."""
    torch.manual_seed(0)
    config = tiny_config(fusion="hcam", num_attention_heads=4)
    fusion = GraphFusionHcam(config).eval()

    def block(layer, x, y):
        attention = nn.MultiheadAttention(32, 4, batch_first=True)
        copied_attention(layer.attention, attention)
        h = x + attention(x, y, y)[0]
        return layer.norm(h + layer.proj(h))

    states = {"audio": torch.randn(1, 6, 16), "text": torch.randn(1, 4, 16)}
    encoded = {n: block(fusion.self_blocks[n], *[fusion.grus[n](x)[0]] * 2) for n, x in states.items()}
    encoded["audio"] = block(fusion.cross_blocks["audio"], encoded["audio"], encoded["text"])
    encoded["text"] = block(fusion.cross_blocks["text"], encoded["text"], encoded["audio"])
    out, _ = fusion(states, {n: torch.ones(x.shape[:2], dtype=torch.bool) for n, x in states.items()})
    for name, values in encoded.items():
        pooling = fusion.poolings[name]
        torch.testing.assert_close(out[name], (pooling.proj(values).softmax(1) * values).sum(1))


def test_pooling_and_mean_by_hand():
    pooling = GraphFusionAttentivePooling(2)
    with torch.no_grad():
        pooling.proj.weight.copy_(torch.eye(2) * math.log(2))
        pooling.proj.bias.zero_()
    x = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    # channel 0 weighs 2^1 : 2^2, channel 1 weighs 2^0 : 2^1
    torch.testing.assert_close(pooling(x, mask)[0], torch.tensor([[(2 * 1 + 4 * 2) / 6, (1 * 0 + 2 * 1) / 3]]))
    assert masked_mean(x, mask).tolist() == [[1.5, 0.5]]
    assert masked_mean(x, ~mask & False).tolist() == [[0.0, 0.0]]
    assert masked_statistics(x, mask).tolist() == [[1.5, 0.5, 0.5, 0.5]]
    # a step by itself has no deviation, and a gradient all the same
    alone = x[:, :1].clone().requires_grad_()
    pooled = masked_statistics(alone, mask[:, :1])
    assert pooled.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    pooled.sum().backward()
    assert alone.grad.tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_frame_pooling_is_a_mean_of_steps(fusion):
    model, plain = tiny_model(fusion=fusion, frame_pooling={"audio": 3, "text": 2}), tiny_model(fusion=fusion)
    plain.load_state_dict(model.state_dict())
    features, masks = padded([clip(7, 4, 6), clip(2, 3, 2, 1)], extra=1)
    for item, lengths in enumerate(({"audio": 7, "text": 4}, {"audio": 2, "text": 3})):
        means = {"f0": features["f0"][item : item + 1, : int(masks["f0"][item].sum())]}
        for name, size in (("audio", 3), ("text", 2)):
            steps = features[name][item, : lengths[name]].split(size)
            means[name] = torch.stack([group.mean(0) for group in steps])[None]
        torch.testing.assert_close(model(features, masks).logits[item], plain(means).logits[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_pooled_statistics_are_added_to_the_vectors(fusion):
    model = tiny_model(fusion=fusion, pooled_statistics=True)
    assert list(model.statistics) == ["audio", "text"]  # fused, and vectors
    for name, size in (("audio", 6), ("text", 5)):
        model.statistics[name].scaler.set_statistics(torch.full((2 * size,), 0.25), torch.full((2 * size,), 2.0))
    features = clip(7, 4, 6)
    with torch.no_grad():
        vectors = model(features).modality_vectors
        plain = tiny_model(fusion=fusion)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("statistics.")})
        for name, values in plain(features).modality_vectors.items():
            if name in model.statistics:
                frames = features[name][0].double().numpy()
                pooled = torch.tensor([*frames.mean(0), *frames.std(0)])
                linear = model.statistics[name].linear
                values = values + linear(((pooled - 0.25) / 2).float())
            torch.testing.assert_close(vectors[name], values, rtol=1e-4, atol=1e-5)


def test_swiglu_by_hand():
    head = GraphFusionSwigluHead(2, tiny_config(head_hidden_size=1, num_labels=2)).eval()
    with torch.no_grad():
        head.gate_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.up_proj.weight.copy_(torch.tensor([[0.0, 1.0]]))
        head.down_proj.weight.copy_(torch.tensor([[1.0], [-2.0]]))
        for layer, bias in ((head.gate_proj, 0.0), (head.up_proj, 1.0), (head.down_proj, 0.5)):
            layer.bias.fill_(bias)
    # gate = ln 3: swish = ln 3 * 3 / 4; up = 4 + 1
    inner = math.log(3) * 0.75 * 5
    expected = torch.tensor([[inner + 0.5, -2 * inner + 0.5]])
    torch.testing.assert_close(head(torch.tensor([[math.log(3), 4.0]])), expected)


def test_losses_by_hand():
    # Probabilities .75 and .5 of the true classes 0 and 1.
    logits, labels = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    terms = [0.25**2 * math.log(4 / 3), 0.5**2 * math.log(2)]
    assert focal_loss(logits, labels).item() == pytest.approx(0.5 * sum(terms) / 2)
    weighted = focal_loss(logits, labels, class_weights=torch.tensor([2.0, 3.0]))
    assert weighted.item() == pytest.approx(0.5 * (2 * terms[0] + 3 * terms[1]) / 2)
    assert focal_loss(logits, labels, alpha=1.0, gamma=0.0).item() == pytest.approx(
        F.cross_entropy(logits, labels).item()
    )


def test_loss_is_what_the_configuration_says():
    clips = [clip(4, 3, 5, seed) for seed in range(3)]
    features, masks = padded(clips)
    labels = torch.tensor([0, 2, 1])
    weights = [1.0, 2.0, 4.0]
    model = tiny_model(class_weights=weights)
    outputs = model(features, masks, labels=labels)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, labels, torch.tensor(weights)))
    model.config.classification_loss = "focal"
    expected = focal_loss(outputs.logits, labels, 0.5, 2.0, torch.tensor(weights))
    torch.testing.assert_close(model(features, masks, labels=labels).loss, expected)


def test_parameters_at_the_papers_size():
    with torch.device("meta"):
        model = GraphFusionForAudioClassification(GraphFusionConfig(num_labels=8))
    absences = sum(parameter.numel() for parameter in model.absences.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - absences == 11_822_600
    assert absences == 3 * 512, "ours"


VARIANTS = [{"fusion": fusion} for fusion in FUSIONS] + [
    {"fusion": "mdat", "graph_attention": "gatv2", "graph_num_heads": 4},
    {"fusion": "gat", "fused_modalities": ("text", "f0", "audio"), "graph_num_heads": 2},
    {"fusion": "mdat", "fused_modalities": ("f0", "audio", "text")},
    {"fusion": "hcam", "fused_modalities": ("audio", "f0", "text")},
    {"fusion": "concat", "fused_modalities": ("audio", "f0")},
    {"fusion": "mdat", "pooled_statistics": True, "frame_pooling": {"audio": 2}},
    {"fusion": "hcam", "fused_modalities": ("audio", "f0"), "pooled_statistics": True},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_batch_and_padding_do_not_matter(changes):
    model = tiny_model(**changes)
    clips = [clip(7, 4, 6, 1), clip(1, 1, 1, 2), clip(12, 2, 9, 3)]
    # Some clips lack modalities.
    clips += [{name: clip(5, 5, 5, 4)[name] for name in names} for names in (["audio"], ["text", "f0"], ["f0"])]
    with torch.no_grad():
        alone = torch.cat([model(item).logits for item in clips])
        for extra in (0, 5):
            features, masks = padded(clips, extra)
            outputs = model(features, masks, output_attentions=True)
            torch.testing.assert_close(outputs.logits, alone, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model(features, masks).logits, alone, rtol=1e-4, atol=1e-5)
            for name, weights in outputs.attentions.items():
                assert torch.isfinite(weights).all(), name
    assert (alone[:, None] - alone[None]).abs().amax(-1).fill_diagonal_(1).min() > 1e-3, "logits tell clips apart"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_stay_finite_with_modalities_absent(fusion):
    model = tiny_model(fusion=fusion, modality_dropout=0.5).train()
    features, masks = padded([clip(4, 3, 5, 1), {"audio": clip(4, 3, 5, 2)["audio"]}], extra=2)
    for _ in range(5):
        model(features, masks, labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_saving_and_loading(changes, tmp_path):
    model = tiny_model(**changes, class_weights=[1.0, 2.0, 3.0], id2label={0: "angry", 1: "happy", 2: "neutral"})
    model.save_pretrained(tmp_path)
    loaded = GraphFusionForAudioClassification.from_pretrained(tmp_path)
    features = clip(7, 4, 6)
    for name, values in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    # Not bit for bit: where weights lie in memory decides the order of sums.
    torch.testing.assert_close(loaded(features).logits, model(features).logits)
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == model.config.to_dict()


def test_fresh_weights_do_not_depend_on_how_the_model_is_made():
    """Loading a checkpoint without tensors makes what the constructor makes: all initialisation is in `_init_weights`."""
    for fusion, version in (("hcam", "gat"), ("mdat", "gatv2"), ("gat", "gat")):
        config = tiny_config(fusion=fusion, graph_attention=version, hidden_size=32)
        made = GraphFusionForAudioClassification(config).state_dict()
        loaded = GraphFusionForAudioClassification.from_pretrained(None, config=config, state_dict={}).state_dict()
        for name, values in made.items():
            if values.numel() > 300:
                torch.testing.assert_close(values.std(), loaded[name].std(), rtol=0.2, atol=0, msg=name)
            else:
                assert values.any() == loaded[name].any() and loaded[name].abs().max() < 6, name


def test_modality_dropout_leaves_one_and_drops_its_share():
    model = tiny_model(modality_dropout=0.4)
    torch.manual_seed(0)
    present = {"audio": True, "text": True, "f0": False}
    masks = {name: torch.full((4000, 2), given) for name, given in present.items()}
    kept = {name: mask.all(-1) for name, mask in model._drop_modalities(masks).items()}
    assert not kept["f0"].any()
    assert (kept["audio"] | kept["text"]).all()
    # The lower of two draws is below .4 with 1 - .6^2 = .64; each modality is the lower one half of the time.
    assert (~kept["audio"]).float().mean().item() == pytest.approx(0.32, abs=0.03)
    assert (~kept["text"]).float().mean().item() == pytest.approx(0.32, abs=0.03)


def interaction(items: int, seed: int) -> tuple[dict, torch.Tensor]:
    """The label is whether a sign in the audio and a sign in the text agree: neither tells anything alone."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (2, items), generator=generator) * 2.0 - 1
    features = {
        "audio": 0.2 * torch.randn(items, 4, 6, generator=generator),
        "text": 0.2 * torch.randn(items, 3, 5, generator=generator),
    }
    features["audio"][..., 0] += signs[0, :, None]
    features["text"][..., 0] += signs[1, :, None]
    return features, (signs[0] == signs[1]).long()


def fitted(features, labels, steps: int, **changes):
    torch.manual_seed(0)
    config = tiny_config(**{"token_sizes": {}, "num_labels": 2, "dropout": 0.0, **changes})
    model = GraphFusionForAudioClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(features, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def accuracy(model, features, labels) -> float:
    with torch.no_grad():
        return (model(features).logits.argmax(-1) == labels).float().mean().item()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_learns_an_interaction(fusion):
    model = fitted(*interaction(48, 0), steps=60, fusion=fusion)
    assert accuracy(model, *interaction(48, 0)) == 1
    assert accuracy(model, *interaction(200, 1)) > 0.95


def test_mdat_learns_it_with_a_linear_head_and_concat_cannot():
    """What is added up cannot be an exclusive or; attention between the modalities can make it one."""
    for fusion, learns in (("mdat", True), ("concat", False)):
        model = fitted(*interaction(100, 0), steps=60, fusion=fusion, head="linear")
        score = accuracy(model, *interaction(400, 1))
        assert score > 0.95 if learns else score < 0.8, (fusion, score)


def redundant(items: int, seed: int) -> tuple[dict, torch.Tensor]:
    """Both modalities tell the label; the text more plainly, so that a model comes to lean on it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (items,), generator=generator)
    features = {
        "audio": torch.randn(items, 4, 6, generator=generator),
        "text": torch.randn(items, 3, 5, generator=generator),
    }
    features["audio"][..., 0] += (labels * 2.0 - 1)[:, None]
    features["text"][..., 0] += 4 * (labels * 2.0 - 1)[:, None]
    return features, labels


def test_modality_dropout_makes_up_for_a_missing_modality():
    features, labels = redundant(400, 1)
    scores = {}
    for probability in (0.0, 0.4):
        model = fitted(*redundant(200, 0), steps=50, fusion="mdat", modality_dropout=probability)
        scores[probability] = [
            accuracy(model, given, labels)
            for given in (features, {"audio": features["audio"]}, {"text": features["text"]})
        ]
    assert min(scores[0.4][0], scores[0.4][2]) > 0.99
    # Four frames of one unit and unit noise: the best possible with the audio alone is Phi(2) = .977.
    assert scores[0.4][1] > 0.93
    assert scores[0.4][1] > scores[0.0][1] + 0.02


@pytest.mark.parametrize("fusion", ["mdat", "gat"])
def test_contributions_are_shapley_values(fusion):
    model = tiny_model(fusion=fusion)
    features, masks = padded([clip(7, 4, 6, 1), {"audio": clip(5, 1, 1, 2)["audio"], "f0": clip(1, 1, 3, 2)["f0"]}])
    with torch.no_grad():
        outputs = model(features, masks, output_contributions=True)
        vectors = torch.cat([model.absences[name].vector for name in ("audio", "text", "f0")])
        nothing = model.head(vectors[None])
        torch.testing.assert_close(sum(outputs.contributions.values()), outputs.logits - nothing, rtol=1e-4, atol=1e-5)
        assert not outputs.contributions["text"][1].any(), "absent there"
        # Two players, by hand: half of what f0 adds alone and half of what it adds to the audio.
        pair = {name: features[name][1:, : int(masks[name][1].sum())] for name in ("audio", "f0")}
        alone = {name: model({name: values}).logits for name, values in pair.items()}
        expected = (alone["f0"] - nothing + model(pair).logits - alone["audio"]) / 2
        torch.testing.assert_close(outputs.contributions["f0"][1:], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="`output_contributions`"):
        model.train()(features, masks, output_contributions=True)


def test_without_masks_padding_counts_as_in_the_public_code():
    model = tiny_model()
    features = clip(4, 3, 5)
    longer = {**features, "audio": F.pad(features["audio"], (0, 0, 0, 3))}
    assert (model(longer).logits - model(features).logits).abs().max() > 1e-4


BAD_INPUT = [
    (lambda f: {"input_features": f["audio"]}, "`input_features` must be a dict"),
    (lambda f: {"input_features": {}}, "`input_features` must have one of"),
    (lambda f: {"input_features": {**f, "video": f["audio"]}}, r"`input_features` has \['video'\]"),
    (lambda f: {"input_features": {"audio": f["audio"][..., :3]}}, r"`input_features\['audio'\]`"),
    (lambda f: {"input_features": {"audio": f["audio"] * math.nan}}, r"`input_features\['audio'\]` holds NaN"),
    (lambda f: {"input_features": {"audio": f["audio"][:, :0]}}, r"`input_features\['audio'\]` is empty"),
    (lambda f: {"input_features": {"f0": f["f0"].float()}}, r"`input_features\['f0'\]` must be long"),
    (lambda f: {"input_features": {"f0": f["f0"] + 9}}, r"`input_features\['f0'\]` must hold tokens in 0..8"),
    (lambda f: {"input_features": {**f, "text": f["text"].repeat(2, 1, 1)}}, "one batch size"),
    (lambda f: {"input_features": f, "attention_mask": {"audio": torch.ones(1, 9)}}, r"`attention_mask\['audio'\]`"),
    (
        lambda f: {"input_features": {"f0": f["f0"]}, "attention_mask": {"f0": torch.tensor([[0, 1, 1, 1, 1]])}},
        "on the right only",
    ),
    (
        lambda f: {"input_features": {"f0": f["f0"]}, "attention_mask": {"f0": torch.zeros(1, 5)}},
        "without any modality",
    ),
    (lambda f: {"input_features": f, "labels": torch.tensor([3])}, r"`labels` must lie in 0\.\.2"),
    (lambda f: {"input_features": f, "labels": torch.tensor([[1]])}, "`labels` must be long"),
]


@pytest.mark.parametrize("arguments, message", BAD_INPUT)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(fusion="concat")(**arguments(clip(4, 3, 5)))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"fusion": "sum"}, "`fusion`"),
        ({"fused_modalities": ("audio", "video")}, "`fused_modalities`"),
        ({"fused_modalities": ()}, "`fused_modalities`"),
        ({"token_sizes": {"audio": 3}}, "`token_sizes`"),
        ({"feature_sizes": {"a b": 3}}, "identifiers"),
        ({"graph_num_heads": 3}, "`graph_num_heads`"),
        ({"class_weights": [1.0]}, "`class_weights`"),
        ({"frame_pooling": {"f0": 2}}, "`frame_pooling`"),
        ({"frame_pooling": {"audio": 0}}, "`frame_pooling`"),
        ({"modality_dropout": 1.0}, "`modality_dropout`"),
    ],
)
def test_bad_configuration_is_named(changes, named):
    with pytest.raises(Exception, match=named):
        tiny_config(**changes)
