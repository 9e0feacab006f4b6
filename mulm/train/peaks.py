"""How many operations a second a device could do at best: from its maker, else measured.

Called by the run's metrics. Invariant: a number comes with its reason, and a card whose name is not
in the table, a part of one (MIG) or a laptop's is measured, never taken for another. Numbers are
those of dense products of bf16 numbers, added up in fp32 as training does: half of what is
advertised with sparsity, and on GeForce cards half of what they do with fp16 sums. Sources:

- NVIDIA Ampere GA102 GPU Architecture (whitepaper V2), tables of RTX 3070, 3080, 3090, A40, A6000
- NVIDIA Ada GPU Architecture (whitepaper V2), tables of RTX 4080, 4090, 3090 Ti, L4, L40, 6000 Ada
- NVIDIA RTX Blackwell GPU Architecture (whitepaper V1), tables of RTX 5070, 5070 Ti, 5080, 5090
- data sheets of A10, A30, A100, H100, H200 and L40S; those from Ada on print numbers with sparsity

The other GeForce cards of these generations follow from their fp32 rate (cores x boost clock x 2),
twice which it is on each card for which the whitepapers print both. T4 and V100 have no bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch

from mulm.train.flops import measured_peak_flops

BF16_TFLOPS: Mapping[str, float] = {
    "GeForce RTX 3060": 25.5,
    "GeForce RTX 3060 Ti": 32.4,
    "GeForce RTX 3070": 40.6,
    "GeForce RTX 3070 Ti": 43.5,
    "GeForce RTX 3080": 59.5,
    "GeForce RTX 3080 Ti": 68.2,
    "GeForce RTX 3090": 71.0,
    "GeForce RTX 3090 Ti": 80.0,
    "GeForce RTX 4060": 30.2,
    "GeForce RTX 4060 Ti": 44.1,
    "GeForce RTX 4070": 58.3,
    "GeForce RTX 4070 SUPER": 71.0,
    "GeForce RTX 4070 Ti": 80.2,
    "GeForce RTX 4070 Ti SUPER": 88.2,
    "GeForce RTX 4080": 97.5,
    "GeForce RTX 4080 SUPER": 104.4,
    "GeForce RTX 4090": 165.2,
    "GeForce RTX 5060": 38.4,
    "GeForce RTX 5060 Ti": 47.4,
    "GeForce RTX 5070": 61.7,
    "GeForce RTX 5070 Ti": 87.9,
    "GeForce RTX 5080": 112.6,
    "GeForce RTX 5090": 209.5,
    "RTX A6000": 154.8,
    "RTX 6000 Ada Generation": 364.2,
    "A10": 125.0,
    "A30": 165.0,
    "A40": 149.7,
    "A100-SXM4-40GB": 312.0,
    "A100-SXM4-80GB": 312.0,
    "A100-PCIE-40GB": 312.0,
    "A100 80GB PCIe": 312.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100 80GB HBM3": 989.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
}
"""By the name that the driver gives, without its maker's, in 10^12 operations a second."""


def device_peak(
    device: torch.device,
    dtype: torch.dtype,
    name: str | None = None,
    measure: Callable[[torch.device, torch.dtype], float] = measured_peak_flops,
) -> tuple[float, str]:
    """Operations a second of a device in a type, and where the number comes from.

    Args:
        device: What computes; measuring keeps it busy for about half a second.
        dtype: Of what is multiplied.
        name: What the driver calls it; by default it is asked.
        measure: Asked for what is not known.
    """
    if name is None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    known = makers_peak(name or "")
    if known and dtype == torch.bfloat16:
        return known, f"the maker's number for {name}"
    return measure(device, dtype), f"measured, as no maker's number is known for {name or 'CPUs'}"


def makers_peak(name: str) -> float | None:
    """Of bf16 products on the card that the driver calls so; None where it is not in the table."""
    known = BF16_TFLOPS.get(name.removeprefix("NVIDIA "))
    return known * 1e12 if known else None


@cache
def run_peak(device: torch.device, dtype: torch.dtype, _n_threads: int) -> tuple[float, str]:
    """The same, once in a process for so many threads: it stays what it is."""
    return device_peak(device, dtype)
