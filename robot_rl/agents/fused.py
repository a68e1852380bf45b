"""An ensemble of critics with its gradient written out: the same function, in fewer passes over memory.

On a CPU the wide products of an ensemble run at the machine's rate, and everything between them waits for
memory. Here the rows go through all layers a chunk at a time, so that a chunk stays in the cache; biases go
into the products; and the loss of an actor computes no gradient of the critics' weights.
`tests/agents/test_fused.py` holds it against `CriticEnsemble.forward` and against finite differences.

E critics, B states, N actions a state, R = B N rows, F features, A action dimensions, H width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Rows that go through all layers at once: E = 2 critics of width 256 then fill two cores' L2 caches."""
EPSILON = 1e-5
"""Of LayerNorm, torch's default."""


def ensemble_values(
    features: Tensor,
    actions: Tensor,
    first: tuple[Tensor, Tensor],
    weights: list[Tensor],
    biases: list[Tensor],
    last: tuple[Tensor, Tensor],
    layer_norm: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Values (E, R) of L hidden layers relu(LayerNorm(W x) + b), or relu(W x + b), and a linear last one.

    Args:
        features: (B, F). actions: (R, A), the N of each state in a row.
        first: its part for features (E, F, H) and for actions (E, A, H).
        weights: of the L - 1 other hidden layers (E, H, H'). biases: of all L (E, 1, H).
        last: (E, 1, H) and (E, 1).
        dtype: of the hidden layers; values are float32.
    """
    values: Tensor = _Ensemble.apply(
        layer_norm, dtype, len(weights), features, actions, *first, *weights, *biases, *last
    )
    return values


class _Ensemble(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer_norm: bool,
        dtype: torch.dtype,
        deeper: int,
        features: Tensor,
        actions: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        cast = [each.detach().to(dtype) for each in parameters[:-2]]
        of_features, of_action, weights, biases = cast[0], cast[1], cast[2 : 2 + deeper], cast[2 + deeper :]
        last_weight, last_bias = parameters[-2:]
        features, actions = features.detach().to(dtype), actions.detach().to(dtype)
        members, count = len(of_features), len(actions) // len(features)
        keep = any(ctx.needs_input_grad)
        values, kept = last_weight.new_empty(members, len(actions)), []
        for states, rows in _chunks(len(features), count):
            # With LayerNorm the bias comes after it; without, it is what the product is added to.
            shared = features[states].expand(members, -1, -1)
            if layer_norm:
                hidden = torch.bmm(shared, of_features)
            else:
                hidden = torch.baddbmm(biases[0], shared, of_features)
            if count > 1:
                hidden = hidden.repeat_interleave(count, dim=1)
            hidden = hidden.baddbmm_(actions[rows].expand(members, -1, -1), of_action)
            layers = []
            for layer in range(deeper + 1):
                if layer and layer_norm:
                    hidden = torch.bmm(hidden, weights[layer - 1])
                elif layer:
                    hidden = torch.baddbmm(biases[layer], hidden, weights[layer - 1])
                normed: tuple[Tensor, ...] = ()
                if layer_norm:
                    before = hidden
                    hidden, mean, scale = torch.native_layer_norm(
                        before, before.shape[-1:], None, None, EPSILON
                    )
                    hidden = hidden.add_(biases[layer])
                    normed = (before, mean, scale)
                hidden = hidden.relu_()
                layers.append((hidden, normed))
            for member in range(members):
                torch.mv(hidden[member].to(values.dtype), last_weight[member, 0], out=values[member, rows])
            if keep:
                kept.append(layers)
        ctx.layer_norm, ctx.dtype, ctx.deeper, ctx.kept = layer_norm, dtype, deeper, kept
        ctx.save_for_backward(features, actions, last_weight, *cast)
        return values.add_(last_bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, actions, last_weight, *cast = ctx.saved_tensors
        deeper, dtype = ctx.deeper, ctx.dtype
        of_features, of_action, weights = cast[0], cast[1], cast[2 : 2 + deeper]
        members, count = len(of_features), len(actions) // len(features)
        for_features, for_actions = ctx.needs_input_grad[3:5]
        learned = ctx.needs_input_grad[5]
        exact = last_weight.dtype  # what sums are kept in
        grads = [torch.zeros_like(each, dtype=exact) for each in cast] if learned else []
        d_last = torch.zeros_like(last_weight) if learned else None
        d_features = torch.zeros_like(features, dtype=exact) if for_features else None
        d_actions = torch.zeros_like(actions, dtype=exact) if for_actions else None
        for layers, (states, rows) in zip(ctx.kept, _chunks(len(features), count), strict=True):
            upstream = grad[:, rows]
            if d_last is not None:
                for member in range(members):
                    hidden = layers[-1][0][member].to(exact)
                    d_last[member, 0].addmv_(hidden.t(), upstream[member])
            d_hidden = (upstream.unsqueeze(-1) * last_weight).to(dtype)
            for layer in reversed(range(deeper + 1)):
                hidden, normed = layers[layer]
                d_hidden = torch.ops.aten.threshold_backward(d_hidden, hidden, 0)
                if learned:
                    grads[2 + deeper + layer] += d_hidden.sum(1, keepdim=True)
                if normed:
                    before, mean, scale = normed
                    d_hidden = torch.ops.aten.native_layer_norm_backward(
                        d_hidden, before, before.shape[-1:], mean, scale, None, None, [True, False, False]
                    )[0]
                if layer:
                    if learned:
                        _accumulate(grads[1 + layer], layers[layer - 1][0].transpose(1, 2), d_hidden)
                    d_hidden = torch.bmm(d_hidden, weights[layer - 1].transpose(1, 2))
            if d_actions is not None:
                d_actions[rows] = torch.bmm(d_hidden, of_action.transpose(1, 2)).sum(0)
            if learned:
                _accumulate(grads[1], actions[rows].t().expand(members, -1, -1), d_hidden)
            if learned or d_features is not None:
                if count > 1:
                    d_hidden = d_hidden.unflatten(1, (-1, count)).sum(2)
                if learned:
                    _accumulate(grads[0], features[states].t().expand(members, -1, -1), d_hidden)
                if d_features is not None:
                    d_features[states] = torch.bmm(d_hidden, of_features.transpose(1, 2)).sum(0)
        if d_last is None:
            return (None, None, None, d_features, d_actions, *[None] * (len(cast) + 2))
        return (None, None, None, d_features, d_actions, *grads, d_last, grad.sum(1, keepdim=True))


def _chunks(states: int, count: int) -> Iterator[tuple[slice, slice]]:
    """Slices of whole states and of their rows."""
    step = max(1, CHUNK // count)
    for start in range(0, states, step):
        stop = min(start + step, states)
        yield slice(start, stop), slice(start * count, stop * count)


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the precision of `total`."""
    if left.dtype == total.dtype:
        total.baddbmm_(left, right)
    else:
        total += torch.bmm(left, right)
