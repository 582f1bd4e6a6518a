"""The benchmark of graph attention: both forms are one function, and the pairwise one holds the tensor that it tells of."""

import pytest
import torch

from hf_affectcodec.benchmarks import graph_attention
from hf_affectcodec.benchmarks.graph_attention import measure, pairwise_graph_attention
from hf_affectcodec.modeling.attention_graph_fusion import GraphFusionGraphAttention


def test_both_forms_are_one_function():
    torch.manual_seed(0)
    layer = GraphFusionGraphAttention(6, 1, 0.2).double()
    for weight in layer.parameters():
        torch.nn.init.normal_(weight)
    nodes = torch.randn(2, 5, 6, dtype=torch.double, requires_grad=True)
    other = nodes.detach().clone().requires_grad_()
    weights = torch.randn(2, 5, 6, dtype=torch.double)
    found, expected = layer(nodes)[0], pairwise_graph_attention(layer, other)
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(nodes.grad, other.grad)
    sums = [measure(form, 2, 9, 8, rounds=1)["checksum"] for form in graph_attention.FORMS]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4) and sums[0] > 0


@pytest.mark.slow  # three processes that import torch
def test_peaks_of_memory(capsys):
    options = ["--batch-size", "2", "--size", "64", "--rounds", "1", "--threads", "1", "--memory-limit", "0.5"]
    graph_attention.main([*options, "--nodes", "300", "2000"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[3] for row in rows] == ["two dot products", "all pairs"] * 2
    splits, pairs = float(rows[0][5]), float(rows[1][5])
    alone = 4 * 2 * 300**2 * 2 * 64 / 2**20  # [B, T, T, 2 D] in MiB
    assert float(rows[1][6]) == round(alone) and pairs > 1.5 * alone and splits < 0.25 * alone
    assert float(rows[0][7].rstrip(" |")) == pytest.approx(float(rows[1][7].rstrip(" |")), rel=1e-4)
    assert rows[2][5] != "not run" and rows[3][5] == "not run"
