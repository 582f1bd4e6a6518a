"""Convolutions, products and ELU over [B, T, C] in the forms that are fast on CPUs."""

import math

import torch
import torch.nn.functional as F
from torch import nn


LOG2_E = 1 / math.log(2)
# With fewer rows oneDNN's reordering of the weight costs more than its product saves.
MIN_ROWS = 128
# Up to so many rows of a product with so large a weight it is faster by parts of the weight, which threads with a core each
# share; on one thread up to MAX_COLUMNS.
MAX_FEW_ROWS = 16
MIN_WEIGHT = 2**16
# Up to so many of these they are columns to the right of the parts.
MAX_COLUMNS = 3
WEIGHT_PARTS = 8


def is_plain_cpu(hidden_states: torch.Tensor) -> bool:
    """Whether this is a tensor of a CPU, without gradients, and no graph is being recorded for a compiler or an export."""
    return (
        hidden_states.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def conv_steps(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> torch.Tensor:
    """Convolution over steps, [B, T, C] -> [B, T', C'], with a weight [C', C, kernel] as `nn.Conv1d` has it."""
    channels = hidden_states.shape[-1] + weight.shape[0] / stride
    if is_plain_cpu(hidden_states) and hidden_states.shape[:2].numel() * channels < weight.numel() / 2:
        # Few steps: what costs is the weight, which the other form brings into an order of its own in every call.
        outputs = F.conv1d(hidden_states.transpose(1, 2), weight, bias, stride, padding, dilation)
        return outputs.transpose(1, 2)
    return _conv_image(hidden_states, weight, bias, stride, padding, dilation)


def _conv_image(hidden_states, weight, bias, stride=1, padding=0, dilation=1):
    # An image one pixel high in channels-last order. `conv1d` knows no such order, and oneDNN would copy the activations
    # into one of its own and back.
    # On one thread torch leaves kernels of one step to MKL, which on AMD processors does without AVX-512. A dilation, which
    # means nothing to such a kernel, keeps them in oneDNN.
    dilation = 2 if weight.shape[-1] == 1 and is_plain_cpu(hidden_states) else dilation
    image = hidden_states.transpose(1, 2)[:, :, None]
    outputs = F.conv2d(image, weight[:, :, None], bias, (1, stride), (0, padding), (1, dilation))
    return outputs[:, :, 0].transpose(1, 2)


def linear(hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    `F.linear` [..., C] -> [..., C']. In float32 it is MKL's, which on AMD processors is half as fast as oneDNN for many rows and
    keeps to one thread for a single one; so on CPUs many rows are a convolution, and a few are products with parts of the weight.
    """
    rows = hidden_states.shape[:-1].numel()
    if not is_plain_cpu(hidden_states):
        return F.linear(hidden_states, weight, bias)
    if rows >= MIN_ROWS:
        rows = hidden_states.reshape(1, -1, hidden_states.shape[-1])
        return _conv_image(rows, weight[..., None], bias).reshape(*hidden_states.shape[:-1], weight.shape[0])
    most = MAX_FEW_ROWS if torch.get_num_threads() > 1 else MAX_COLUMNS
    large = weight.numel() >= MIN_WEIGHT and weight.shape[0] % WEIGHT_PARTS == 0 and weight.is_contiguous()
    if large and 1 <= rows <= most and hidden_states.dtype == weight.dtype == torch.float32:
        return _linear_by_parts(hidden_states, weight, bias)
    return F.linear(hidden_states, weight, bias)


def _linear_by_parts(hidden_states, weight, bias):
    parts = weight.view(WEIGHT_PARTS, -1, weight.shape[1])
    rows = hidden_states.reshape(-1, weight.shape[1])
    if len(rows) <= MAX_COLUMNS:
        columns = rows.t().expand(WEIGHT_PARTS, -1, -1)
        if bias is None:
            outputs = torch.bmm(parts, columns)
        else:
            outputs = torch.baddbmm(bias.view(WEIGHT_PARTS, -1, 1), parts, columns)
        outputs = outputs.view(weight.shape[0], -1).t().contiguous()
    else:
        rows = rows.expand(WEIGHT_PARTS, -1, -1)
        if bias is None:
            outputs = torch.bmm(rows, parts.transpose(1, 2))
        else:
            outputs = torch.baddbmm(bias.view(WEIGHT_PARTS, 1, -1), rows, parts.transpose(1, 2))
        outputs = outputs.transpose(0, 1)
    return outputs.reshape(*hidden_states.shape[:-1], weight.shape[0])


class AffectCodecLinear(nn.Linear):
    """`nn.Linear` by [`linear`]."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return linear(hidden_states, self.weight, self.bias)


def elu(hidden_states: torch.Tensor) -> torch.Tensor:
    """
    ELU with alpha 1. On CPUs as max(x, 2^(min(x, 0) log2 e) - 1), in float32: torch's own, and its `exp`, are there five to
    fifty times slower on some processors.
    """
    if not is_plain_cpu(hidden_states):
        return F.elu(hidden_states)
    exact = hidden_states.float()
    negative = exact.clamp(max=0).mul_(LOG2_E).exp2_().sub_(1)
    return torch.maximum(exact, negative, out=negative).to(hidden_states.dtype)
