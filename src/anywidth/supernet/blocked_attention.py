"""Multi-head attention of nested networks that skips the zero blocks of its projections."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.groups.later_shells import LaterEntries
from anywidth.supernet.blocked_layer import is_hooked, split_layer

__all__ = ["BlockedAttention", "is_plain_attention", "split_attention"]


class BlockedAttention(nn.Module):
    """What `nn.MultiheadAttention` computes, with projections that are modules.

    Args:
        attention: The attention, whose queries, keys and values have one size.
        query: The projection to queries.
        key: The projection to keys.
        value: The projection to values.
        out_proj: The projection of the heads' results.
    """

    _qkv_same_embed_dim = False  # encoder layers must not use the fused kernel, which reads the weights

    def __init__(
        self, attention: nn.MultiheadAttention, *, query: nn.Module, key: nn.Module, value: nn.Module,
        out_proj: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.head_dim, self.batch_first, self.dropout = attention.head_dim, attention.batch_first, attention.dropout
        self.query, self.key, self.value, self.out_proj = query, key, value, out_proj
        self.train(attention.training)

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The biases of queries, keys and values together."""
        biases = [part.bias for part in (self.query, self.key, self.value)]
        return None if biases[0] is None else torch.cat(biases)  # type: ignore[arg-type]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As in `nn.MultiheadAttention`."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        q, k, v = (
            part(tensor).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part, tensor in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            made = weights @ v
        else:
            made = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(made.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores of shape (batch, heads, queries, keys), or None."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, q)
            mask = mask.unflatten(0, (-1, self.num_heads)) if mask.ndim == 3 else mask
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)[:, None, None]
            mask = padding if mask is None else mask + padding
        return mask


def split_attention(
    attention: nn.MultiheadAttention, projections: LaterEntries, output: LaterEntries, work: int, smallest: int
) -> BlockedAttention | None:
    """The attention with projections that skip zero blocks; None if all are better left whole.

    Args:
        attention: The attention.
        projections: The zero blocks of `in_proj_weight`.
        output: Those of `out_proj.weight`.
        work: Tokens of a call.
        smallest: MACs that one more product has to save.
    """
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    size = weight.shape[0] // 3
    parts: list[nn.Module] = []
    changed = False
    for number in range(3):
        rows = slice(number * size, (number + 1) * size)
        layer = nn.Linear(weight.shape[1], size, bias=bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.detach()[rows].clone(), requires_grad=weight.requires_grad)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach()[rows].clone(), requires_grad=bias.requires_grad)
        later = LaterEntries(0, 1, projections.rows[rows], projections.columns)
        split = split_layer(layer, later, work, smallest)
        changed |= split is not None
        parts.append(layer if split is None else split)
    split = split_layer(attention.out_proj, output, work, smallest)
    if not changed and split is None:
        return None
    query, key, value = parts
    out_proj = attention.out_proj if split is None else split
    return BlockedAttention(attention, query=query, key=key, value=value, out_proj=out_proj)


def is_plain_attention(module: nn.Module) -> bool:
    """Whether a module is the attention of torch, with one size and no additions to keys, and without hooks."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
        and not is_hooked(module)
    )


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask of booleans, or of numbers, as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
