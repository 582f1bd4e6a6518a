import math

import pytest
import torch
from guided_attention import guided_attention_loss


def test_by_hand():
    """Two symbols and two frames, after one symbol of padding; the rows that predict frames are those after the text."""
    attention = torch.zeros(1, 2, 7, 7)
    text = torch.tensor([[False, True, True]])
    # Head 0 of layer 0 looks at the first symbol (.2) and at a code (.8) for frame 0, at both symbols alike for frame 1.
    attention[0, 0, 3, 1], attention[0, 0, 3, 3] = 0.2, 0.8
    attention[0, 0, 4, 1], attention[0, 0, 4, 2] = 0.5, 0.5
    attention[0, 1] = 99.0  # is not guided
    loss = guided_attention_loss([attention], text, torch.ones(1, 2, dtype=torch.bool), [0], 1, 0.5)
    # Middles are 1/4 and 3/4: on the diagonal nothing, half an utterance beside it 1 - exp(-1/2), on codes 1.
    assert float(loss) == pytest.approx(0.8 + 0.5 * (1 - math.exp(-0.5)), rel=1e-6)


def test_looking_away_from_the_text_costs_most():
    away = torch.zeros(1, 1, 9, 9)
    away[..., 4] = 1.0
    masks = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    assert float(guided_attention_loss([away], *masks, [0], 1, 0.1)) == 4.0


def test_against_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    attentions = [torch.rand(3, 4, 16, 16, generator=generator) for _ in range(3)]
    texts, frames = [5, 2, 4], [9, 7, 3]
    text_mask = torch.arange(5) < torch.tensor(texts)[:, None]
    codes_mask = torch.arange(9) < torch.tensor(frames)[:, None]
    expected = 0.0
    for item, (symbols, length) in enumerate(zip(texts, frames, strict=True)):
        for layer in (0, 2):
            for head in range(3):
                for t in range(length):
                    row = attentions[layer][item, head, 5 + t, :5].tolist()
                    near = 0.0
                    for n in range(symbols):
                        distance = (n + 0.5) / symbols - (t + 0.5) / length
                        near += row[n] * math.exp(-(distance**2) / (2 * 0.2**2))
                    expected += (1 - near) / 6
    got = guided_attention_loss(attentions, text_mask, codes_mask, [0, 2], 3, 0.2)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_known_symbols_take_the_place_of_the_diagonal():
    """Frames of the first utterance say symbols 2, 2 and 0; of the second nothing is known, so it goes by the diagonal."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(2, 1, 8, 8, generator=generator) / 8
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    alignment = torch.tensor([[2, 2, 0], [-1, -1, -1]])
    got = guided_attention_loss([attention], *masks, [0], 1, 0.3, alignment, 0.5)
    known = sum(
        1 - sum(float(attention[0, 0, 3 + t, n]) * math.exp(-((n - said) ** 2) / (2 * 0.25)) for n in range(3))
        for t, said in enumerate([2, 2, 0])
    )
    diagonal = guided_attention_loss([attention[1:]], masks[0][1:], masks[1][1:], [0], 1, 0.3)
    assert float(got) == pytest.approx(known + float(diagonal), rel=1e-6)


def test_its_gradient_turns_a_head_to_the_diagonal():
    torch.manual_seed(0)
    scores = torch.randn(1, 1, 42, 42, requires_grad=True)
    text, codes = torch.ones(1, 20, dtype=torch.bool), torch.ones(1, 20, dtype=torch.bool)
    optimizer = torch.optim.Adam([scores], lr=0.2)

    def loss():
        return guided_attention_loss([scores.softmax(-1)], text, codes, [0], 1, 0.1)

    before = loss().item()
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.2 * before
    looked_at = scores.detach().softmax(-1)[0, 0, 20:40, :20].argmax(-1)
    assert ((looked_at - torch.arange(20)).abs() <= 2).all()
