"""
Memory and time of graph attention: scores from two dot products a node against scores from all pairs of nodes.

    python -m hf_affectcodec.benchmarks.graph_attention --batch-size 8 --nodes 500 --size 512

The pairwise form builds the concatenation [B, T, T, 2 D], as the public code of arXiv 2506.02088 does; the numbers are the
same. Each form runs forward and backward in a process of its own, so that the peaks do not mix. On a CPU memory is the
process's peak less what it held before; on a CUDA device what torch allocated at most.
"""

import argparse
import multiprocessing
import time

import torch
import torch.nn.functional as F

from ..modeling.attention_graph_fusion import GraphFusionGraphAttention
from .memory import peak_memory


def pairwise_graph_attention(layer: GraphFusionGraphAttention, nodes: torch.Tensor) -> torch.Tensor:
    """
    What `layer` (one head) computes, by the concatenation of all pairs.

    Args:
        layer ([`GraphFusionGraphAttention`]): Whose weights to use.
        nodes (`torch.Tensor` of shape `(batch, nodes, size)`): x.

    Returns:
        `torch.Tensor` of shape `(batch, nodes, size)`.
    """
    hidden = layer.proj(nodes)
    batch, count, size = hidden.shape
    receivers = hidden[:, :, None].expand(batch, count, count, size)
    senders = hidden[:, None].expand(batch, count, count, size)
    pairs = torch.cat([receivers, senders], -1)
    scores = F.leaky_relu(pairs @ torch.cat([layer.receiver[0], layer.sender[0]]), layer.negative_slope)
    return scores.softmax(-1) @ hidden


FORMS = {"two dot products": lambda layer, nodes: layer(nodes)[0], "all pairs": pairwise_graph_attention}


def measure(form: str, batch_size: int, nodes: int, size: int, device: str = "cpu", rounds: int = 3) -> dict:
    """
    One form in this process, forward and backward.

    Returns:
        `dict`: `seconds` (least of `rounds` after one to warm up), `bytes` (peak above what was held before) and
        `checksum` (sum of the squared output and of its gradient).
    """
    torch.manual_seed(0)
    layer = GraphFusionGraphAttention(size, 1, 0.2).to(device)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=size**-0.5)
    x = torch.randn(batch_size, nodes, size, device=device, requires_grad=True)
    warm_up = torch.randn(1, 2, size, device=device, requires_grad=True)
    FORMS[form](layer, warm_up).sum().backward()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 1e9 * peak_memory()
    seconds = []
    for _ in range(rounds + 1):
        x.grad = None
        start = time.perf_counter()
        squares = FORMS[form](layer, x).square().sum()
        squares.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if cuda else 1e9 * peak_memory()
    checksum = float(squares.detach() + x.grad.square().sum())
    return {"seconds": min(seconds[1:]), "bytes": after - before, "checksum": checksum}


def _measure_into(queue, threads, form, arguments):
    if threads is not None:
        torch.set_num_threads(threads)
    queue.put(measure(form, *arguments))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 200, 500])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument(
        "--memory-limit", type=float, default=8.0, help="GiB; pairs that would need more (2 tensors) are not run"
    )
    args = parser.parse_args(arguments)
    print("| B | T | D | form | forward + backward, s | peak memory, MiB | [B, T, T, 2 D] alone, MiB | checksum |")
    print("|---|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for nodes in args.nodes:
        pairs = 4 * args.batch_size * nodes**2 * 2 * args.size
        for form in FORMS:
            row = f"| {args.batch_size} | {nodes} | {args.size} | {form} |"
            if form == "all pairs" and 2 * pairs > args.memory_limit * 2**30:
                print(f"{row} not run | not run | {pairs / 2**20:.0f} | |", flush=True)
                continue
            queue = context.Queue()
            shape = (args.batch_size, nodes, args.size, args.device, args.rounds)
            process = context.Process(target=_measure_into, args=(queue, args.threads, form, shape))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{form} with --nodes {nodes} failed (exit code {process.exitcode})")
            found = queue.get()
            print(
                f"{row} {found['seconds']:.3f} | {found['bytes'] / 2**20:.0f} | {pairs / 2**20:.0f} | "
                f"{found['checksum']:.6g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
