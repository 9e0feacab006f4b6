"""The parts of a µLM block: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Called by `microlm`. Where keys and values come from (this text alone, or a cache) is not
known here: attention hands q, k and v of its own tokens to an `Attend` function.
Invariant: everything is computed in the type of the stream; weights are cast where they are used.
Shape letters: B batch, T time, D d_model, N heads, K kv heads, G heads per kv head,
H d_head, F d_ff.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.model.compiled import compiled
from mulm.model.config import MicroLMConfig, YarnRope
from mulm.model.gradients import gated_silu, rms_norm

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q_BTNH, k_BTKH, v_BTKH) -> mixed_BTNH; q and k are normalised and rotated."""


class RMSNorm(nn.Module):
    """Scale to unit root mean square, then by a learned gain (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return rms_norm(x, self.weight, self.eps)


class Linear(nn.Linear):
    """A matrix without bias that computes in the type of its input."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension."""
        return functional.linear(x, self.weight.to(x.dtype))


def rotary_tables(config: MicroLMConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, (max_seq_len, d_head), fp32.

    Half-split layout (RoFormer as in Hugging Face): dimension i turns with i + d_head / 2.
    """
    positions_P = torch.arange(config.max_seq_len, dtype=torch.float32)
    angles = torch.outer(positions_P, rotary_frequencies(config))
    both = torch.cat([angles, angles], dim=-1)
    length = _rotary_length(config)
    return both.cos() * length, both.sin() * length


def rotary_frequencies(config: MicroLMConfig) -> Tensor:
    """Radians per position of each pair of dimensions, (d_head / 2), scaled as configured."""
    return _unscaled_frequencies(config) / rotary_factors(config)


def rotary_factors(config: MicroLMConfig) -> Tensor:
    """By how much the scaling divides each of the frequencies, (d_head / 2)."""
    frequencies, scaling = _unscaled_frequencies(config), config.rope_scaling
    if scaling is None:
        return torch.ones_like(frequencies)
    if scaling.kind == "linear":
        return torch.full_like(frequencies, scaling.factor)
    if scaling.kind == "yarn":
        return _yarn_factors(config, scaling)
    turns = scaling.original_max_seq_len * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return 1 / ((1 - kept) / scaling.factor + kept)


def _yarn_factors(config: MicroLMConfig, scaling: YarnRope) -> Tensor:
    """One where a pair of dimensions turns fast, `factor` where it turns slowly (eq. 18, 23)."""

    def dimension_of(n_turns: float) -> float:
        wavelength = scaling.original_max_seq_len / n_turns
        return config.d_head * math.log(wavelength / math.tau) / (2 * math.log(config.rope_theta))

    first = max(math.floor(dimension_of(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension_of(scaling.beta_slow)), config.d_head - 1)
    pairs = torch.arange(config.d_head // 2, dtype=torch.float32)
    slow = ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    return 1 / (slow / scaling.factor + 1 - slow)


def _rotary_length(config: MicroLMConfig) -> float:
    """By how much turned queries and keys grow: YaRN's temperature of attention (eq. 22)."""
    scaling = config.rope_scaling
    is_yarn = scaling is not None and scaling.kind == "yarn"
    return 0.1 * math.log(scaling.factor) + 1 if scaling and is_yarn else 1.0


def _unscaled_frequencies(config: MicroLMConfig) -> Tensor:
    half = torch.arange(0, config.d_head, 2, dtype=torch.float32) / config.d_head
    return 1.0 / (config.rope_theta**half)


def rotate(x_BTNH: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
    """Turn each pair of dimensions by the angle of its token's position."""
    first, second = x_BTNH.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    cos, sin = cos_BTH.unsqueeze(-2).to(x_BTNH.dtype), sin_BTH.unsqueeze(-2).to(x_BTNH.dtype)
    return x_BTNH * cos + turned * sin


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: MicroLMConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.d_head = config.d_head
        self.q = Linear(config.d_model, config.n_heads * config.d_head)
        self.k = Linear(config.d_model, config.n_kv_heads * config.d_head)
        self.v = Linear(config.d_model, config.n_kv_heads * config.d_head)
        self.out = Linear(config.n_heads * config.d_head, config.d_model)
        make_norm = RMSNorm if config.qk_norm else nn.Identity
        self.q_norm = make_norm(config.d_head, config.norm_eps)
        self.k_norm = make_norm(config.d_head, config.norm_eps)

    def project(
        self, x_BTD: Tensor, cos_BTH: Tensor, sin_BTH: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q_BTNH, k_BTKH and v_BTKH of tokens; queries and keys normalised and rotated."""
        q_BTNH = self.q(x_BTD).unflatten(-1, (-1, self.d_head))
        k_BTKH = self.k(x_BTD).unflatten(-1, (-1, self.d_head))
        v_BTKH = self.v(x_BTD).unflatten(-1, (-1, self.d_head))
        q_BTNH = rotate(self.q_norm(q_BTNH), cos_BTH, sin_BTH)
        k_BTKH = rotate(self.k_norm(k_BTKH), cos_BTH, sin_BTH)
        return q_BTNH, k_BTKH, v_BTKH

    def join(self, mixed_BTNH: Tensor) -> Tensor:
        """What all heads say together, (B, T, D)."""
        joined_BTD: Tensor = self.out(mixed_BTNH.flatten(-2))
        return joined_BTD


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, config: MicroLMConfig) -> None:
        super().__init__()
        self.gate = Linear(config.d_model, config.d_ff)
        self.up = Linear(config.d_model, config.d_ff)
        self.down = Linear(config.d_ff, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each token by itself."""
        changed: Tensor = self.down(gated_silu(self.gate(x_BTD), self.up(x_BTD)))
        return changed


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: MicroLMConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self,
        x_BTD: Tensor,
        cos_BTH: Tensor,
        sin_BTH: Tensor,
        attend: Attend,
        is_compiled: bool = False,
    ) -> Tensor:
        """Add what attention and the feed-forward layer say to the stream.

        `attend`, which has kernels of its own, decides what tokens may see.
        """
        before, after = Block.before, Block.after
        if is_compiled:
            before, after = compiled(before), compiled(after)
        q_BTNH, k_BTKH, v_BTKH = before(self, x_BTD, cos_BTH, sin_BTH)
        return after(self, x_BTD, attend(self.attention.layer, q_BTNH, k_BTKH, v_BTKH))

    def before(
        self, x_BTD: Tensor, cos_BTH: Tensor, sin_BTH: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        return self.attention.project(self.attention_norm(x_BTD), cos_BTH, sin_BTH)

    def after(self, x_BTD: Tensor, mixed_BTNH: Tensor) -> Tensor:
        """The stream with both branches added."""
        x_BTD = x_BTD + self.attention.join(mixed_BTNH)
        changed: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return changed
