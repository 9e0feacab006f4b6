"""Suites by name: what `mulm eval --suite` knows.

A new suite is a file beside this one and a line here. Light: needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mulm.errors import UnknownNameError, nearest
from mulm.eval.suites.arc import ArcChallenge, ArcEasy
from mulm.eval.suites.base import Suite
from mulm.eval.suites.blimp import Blimp
from mulm.eval.suites.gsm8k import Gsm8k
from mulm.eval.suites.hellaswag import HellaSwag
from mulm.eval.suites.lambada import Lambada, LambadaStandard
from mulm.eval.suites.piqa import Piqa

BITS_PER_BYTE = "bits_per_byte"
"""Not made of items: `mulm.eval.compression` measures it on held-out text."""

ALL = "all"

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Blimp(),
            Lambada(),
            LambadaStandard(),
            HellaSwag(),
            ArcEasy(),
            ArcChallenge(),
            Piqa(),
            Gsm8k(),
        )
    }
)


def require_suite(name: str) -> str:
    """The name, if `--suite` may have it.

    Raises:
        UnknownNameError: it may not; the hint names the nearest.
    """
    known = (BITS_PER_BYTE, ALL, *SUITES)
    if name not in known:
        raise UnknownNameError(f"no suite {name!r}", hint=nearest(name, known))
    return name
