"""An ensemble of critics with its gradient written out: the same function, in fewer passes over memory.

On a CPU the wide products of an ensemble run at the machine's rate, and everything between them waits for
memory or for Python. Here the rows go through all layers a chunk at a time, so that a chunk stays in the
cache; what can be done in place is; and the loss of an actor computes no gradient of the critics' weights.
`tests/agents/test_fused.py` holds it against `CriticEnsemble.forward` and against finite differences.

E critics, R rows, I inputs (features and action), H width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Rows that go through all layers at once: E = 2 critics of width 256 then fill two cores' L2 caches."""
EPSILON = 1e-5
"""Of LayerNorm, torch's default."""


def ensemble_values(
    rows: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    last: tuple[Tensor, Tensor],
    layer_norm: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Values (E, R) of hidden layers relu(LayerNorm(W x) + b), or relu(W x + b), and a linear last one.

    Args:
        rows: x (R, I), the same for all members, or (E, R, I), each member's own.
        weights: W of each hidden layer, (E, I, H) and then (E, H, H'). biases: b, (E, 1, H).
        last: (E, 1, H) and (E, 1).
        dtype: of the hidden layers; values are float32.
    """
    values: Tensor = _Ensemble.apply(layer_norm, dtype, rows, *weights, *biases, *last)
    return values


class _Ensemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer_norm: bool, dtype: torch.dtype, rows: Tensor, *parameters: Tensor) -> Tensor:
        *hidden_layers, last_weight, last_bias = parameters
        depth = len(hidden_layers) // 2
        cast = [each.detach().to(dtype) for each in (rows, *hidden_layers)]
        members = len(last_weight)
        inputs = cast[0].expand(members, -1, -1)
        values = last_weight.new_empty(members, inputs.shape[1])
        kept = []
        for start in range(0, inputs.shape[1], CHUNK):
            hidden = inputs[:, start : start + CHUNK]
            layers = []
            for weight, bias in zip(cast[1 : 1 + depth], cast[1 + depth :], strict=True):
                hidden = torch.bmm(hidden, weight)
                normed: tuple[Tensor, ...] = ()
                if layer_norm:
                    before = hidden
                    hidden, mean, scale = torch.native_layer_norm(
                        before, before.shape[-1:], None, None, EPSILON
                    )
                    normed = (before, mean, scale)
                hidden = hidden.add_(bias).relu_()
                layers.append((hidden, normed))
            for member in range(members):
                out = values[member, start : start + CHUNK]
                torch.mv(hidden[member].to(values.dtype), last_weight[member, 0], out=out)
            if any(ctx.needs_input_grad):
                kept.append(layers)
        ctx.depth, ctx.kept = depth, kept
        ctx.save_for_backward(last_weight, *cast)
        return values.add_(last_bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        last_weight, rows, *cast = ctx.saved_tensors
        depth, exact = ctx.depth, last_weight.dtype  # sums are kept in `exact`
        weights = cast[:depth]
        for_rows, learned = ctx.needs_input_grad[2:4]
        grads = [torch.zeros_like(each, dtype=exact) for each in cast] if learned else []
        d_last = torch.zeros_like(last_weight) if learned else None
        d_rows = torch.empty_like(rows, dtype=exact) if for_rows else None
        inputs = rows.expand(len(last_weight), -1, -1)
        for layers, start in zip(ctx.kept, range(0, inputs.shape[1], CHUNK), strict=True):
            chunk = slice(start, start + CHUNK)
            upstream = grad[:, chunk]
            if d_last is not None:
                for member, (total, values) in enumerate(zip(d_last[:, 0], upstream, strict=True)):
                    total.addmv_(layers[-1][0][member].to(exact).t(), values)
            d_hidden = (upstream.unsqueeze(-1) * last_weight).to(ctx.kept[0][0][0].dtype)
            for layer in reversed(range(depth)):
                hidden, normed = layers[layer]
                torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
                if learned:
                    grads[depth + layer] += d_hidden.sum(1, keepdim=True)
                if normed:
                    before, mean, scale = normed
                    d_hidden = torch.ops.aten.native_layer_norm_backward(
                        d_hidden, before, before.shape[-1:], mean, scale, None, None, [True, False, False]
                    )[0]
                if learned:
                    below = layers[layer - 1][0] if layer else inputs[:, chunk]
                    _accumulate(grads[layer], below.transpose(1, 2), d_hidden)
                if layer:
                    d_hidden = torch.bmm(d_hidden, weights[layer].transpose(1, 2))
                elif d_rows is not None:
                    d_inputs = torch.bmm(d_hidden, weights[0].transpose(1, 2))
                    if rows.dim() == 3:
                        d_rows[:, chunk] = d_inputs
                    else:
                        d_rows[chunk] = d_inputs.sum(0)
        if d_last is None:
            return (None, None, d_rows, *[None] * (2 * depth + 2))
        return (None, None, d_rows, *grads, d_last, grad.sum(1, keepdim=True))


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the precision of `total`."""
    if left.dtype == total.dtype:
        total.baddbmm_(left, right)
    else:
        total += torch.bmm(left, right)
