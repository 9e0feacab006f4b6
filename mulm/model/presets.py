"""Named sizes. One dial, the number of parameters, sets width and depth.

Called by training and by `mulm` commands that list sizes. The aims: `demo` learns in
minutes on two CPU cores; `base` is the µLM (0.95 GB in bf16); `wide` fills 1.06 GB in int8.
"""

from __future__ import annotations

from mulm.errors import UnknownNameError, nearest
from mulm.model.config import MicroLMConfig

PARAMETERS_BY_PRESET: dict[str, int] = {
    "nano": 30_000_000,
    "micro": 130_000_000,
    "mini": 360_000_000,
    "base": 475_000_000,
    "wide": 1_000_000_000,
}
MAX_SEQ_LEN_BY_PRESET: dict[str, int] = {
    "nano": 1024,
    "micro": 2048,
    "mini": 4096,
    "base": 4096,
    "wide": 4096,
}
PRESETS: tuple[str, ...] = ("demo", *PARAMETERS_BY_PRESET)

_D_HEAD = 64
_WIDTH_PER_LAYER = 40


def preset(name: str, vocab_size: int) -> MicroLMConfig:
    """The shape of that name for a vocabulary.

    Raises:
        UnknownNameError: no preset of that name; the hint names the nearest.
    """
    if name == "demo":
        return demo_shape(vocab_size)
    if name not in PARAMETERS_BY_PRESET:
        raise UnknownNameError(f"no preset {name!r}", hint=nearest(name, PRESETS))
    return shape_of_size(PARAMETERS_BY_PRESET[name], vocab_size, MAX_SEQ_LEN_BY_PRESET[name])


def shape_of_size(n_parameters: int, vocab_size: int, max_seq_len: int) -> MicroLMConfig:
    """The shape with about `n_parameters`: some 40 units of width per layer.

    A block has about 11 d_model^2 parameters, so a model has 11 d_model^3 / 40; the width
    is rounded down to whole pairs of heads and the depth takes what is left.
    """
    d_model = int((_WIDTH_PER_LAYER * n_parameters / 11) ** (1 / 3)) // 128 * 128
    shape = _shape(max(d_model, 128), vocab_size, max_seq_len)
    left = n_parameters - shape.n_parameters + shape.n_block_parameters
    return shape.model_copy(update={"n_layers": max(1, round(left / shape.n_block_parameters))})


def demo_shape(vocab_size: int) -> MicroLMConfig:
    """Two million parameters that learn to spell and to tell within minutes on a CPU.

    Wider and deeper shapes see too few tokens in that time; docs/log.md has the numbers.
    """
    return MicroLMConfig(
        vocab_size=vocab_size,
        d_model=192,
        n_layers=4,
        n_heads=6,
        n_kv_heads=2,
        d_head=32,
        d_ff=512,
        max_seq_len=512,
    )


def _shape(d_model: int, vocab_size: int, max_seq_len: int) -> MicroLMConfig:
    return MicroLMConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=1,
        n_heads=d_model // _D_HEAD,
        n_kv_heads=d_model // _D_HEAD // 2,
        d_head=_D_HEAD,
        d_ff=round(d_model * 8 / 3 / 128) * 128,
        max_seq_len=max_seq_len,
    )
