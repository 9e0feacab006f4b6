"""Where a run computes and in which precision, each with the reason for the log.

Called by training contexts and the training loop. Invariant: the same machine always chooses
the same; what was asked for by name is never replaced by something else.
"""

from __future__ import annotations

from typing import Literal

import torch

from mulm.errors import DeviceError
from mulm.model.compute import bf16_of_cpu
from mulm.model.fp8 import FIRST_FP8_CARD

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp8"]

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16
}  # fmt: skip
"""Of the stream; with `fp8` the products of blocks take 8 bits."""


def choose_device(asked: Device, has_cuda: bool | None = None) -> tuple[str, str]:
    """The name "cpu" or "cuda", and why.

    Raises:
        DeviceError: "cuda" was asked for and is not usable here.
    """
    usable = torch.cuda.is_available() if has_cuda is None else has_cuda
    if asked == "cuda" and not usable:
        raise DeviceError(
            "device 'cuda' was asked for, but torch finds no usable NVIDIA GPU",
            hint="use device: cpu or auto, or install a driver and a CUDA build of torch",
        )
    if asked != "auto":
        return asked, "asked for"
    return ("cuda", "a usable GPU is here") if usable else ("cpu", "no usable GPU is here")


def choose_precision(asked: Precision, device: str) -> tuple[str, str]:
    """The name "fp32", "bf16" or "fp8", and why.

    Measured with the demo shape on a CPU with avx512_bf16: products run 2.7 times faster than
    in fp32, whole steps 1.5 times. CPUs without such instructions emulate bf16, slowly.

    Raises:
        DeviceError: "fp8" was asked for and the device does not multiply it in hardware.
    """
    if asked == "fp8" and not has_fp8(device):
        raise DeviceError(
            f"precision 'fp8' was asked for, but the {device} here has no 8-bit floats",
            hint="GPUs have them from compute capability 8.9 on (Ada, Hopper); use bf16 or auto",
        )
    if asked != "auto":
        return asked, "asked for"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU computes bf16 in hardware"
        return "fp32", "the GPU has no bf16"
    if feature := bf16_of_cpu():
        return "bf16", f"the CPU multiplies bf16 in hardware ({feature})"
    return "fp32", "the CPU has no bf16 instructions"


def has_fp8(device: str) -> bool:
    """Whether the device multiplies 8-bit floats in hardware."""
    return device == "cuda" and torch.cuda.get_device_capability() >= FIRST_FP8_CARD


def memory_bytes(device: torch.device) -> int | None:
    """The memory of a GPU; None for a CPU, whose memory other work shares."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)
