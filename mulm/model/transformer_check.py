"""A sanity check of the Transformer, printed: `python -m mulm.model.transformer`.

Counts the parameters of the paper's two models without their memory, runs a tiny one, and shows
that decoding token by token gives the numbers of reading all at once. Takes seconds.
"""

from __future__ import annotations

import torch

from mulm.model.transformer import Transformer
from mulm.model.transformer_config import TransformerConfig, base, big
from mulm.model.transformer_decoding import beam_search, decode_greedily

TINY = TransformerConfig(
    vocab_size=32, d_model=32, n_layers=2, n_heads=4, d_ff=64, dropout=0.1, max_seq_len=64
)


def main() -> None:
    """Print the check."""
    for name, config in (("base", base()), ("big", big())):
        n_parameters = count_parameters(config)
        print(f"{name:<12}{n_parameters / 1e6:6.1f} M parameters, {config.vocab_size} entries")
    generator = torch.Generator().manual_seed(0)
    model = Transformer(TINY).init_weights(generator).eval()
    source_BS = torch.randint(3, TINY.vocab_size, (2, 9), generator=generator)
    target_BT = torch.randint(3, TINY.vocab_size, (2, 7), generator=generator)
    logits_BTV = model(source_BS, target_BT)
    print(f"forward     logits {tuple(logits_BTV.shape)} from source {tuple(source_BS.shape)}")
    print(f"incremental differs by {incremental_difference(model, source_BS, target_BT):.1e}")
    greedy = decode_greedily(model, source_BS, begin_id=1, end_id=2, max_tokens=8)
    beam = beam_search(model, source_BS, begin_id=1, end_id=2, max_tokens=8)
    print(f"greedy      {' '.join(map(str, greedy[0]))}")
    print(f"beam of 4   {' '.join(map(str, beam[0][0].tokens))}   score {beam[0][0].score:.3f}")


def count_parameters(config: TransformerConfig) -> int:
    """Parameters of a shape; the shared embeddings count once, and no memory is taken."""
    with torch.device("meta"):
        model = Transformer(config)
    return sum(parameter.numel() for parameter in model.parameters())


@torch.inference_mode()
def incremental_difference(
    model: Transformer, source_BS: torch.Tensor, target_BT: torch.Tensor
) -> float:
    """The largest difference between the logits of both ways to decode."""
    whole_BTV = model(source_BS, target_BT)
    cache = model.start(source_BS)
    steps = [model.decode_next(target_B1, cache) for target_B1 in torch.split(target_BT, 1, dim=1)]
    return float((torch.cat(steps, dim=1) - whole_BTV).abs().max())
