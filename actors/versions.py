"""Which software a machine runs, and whether two machines can work together.

The head tells its cluster (`publish`, by `actors.host_start`); a machine that wants to join asks
before it starts anything: `python -m actors.versions ADDRESS` prints the head's answer, in a
process of its own, since Ray reads its token once. Invariant: machines whose processes could not
understand each other, or would compute something else, are refused with what to do.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import mulm

_KEY, _NAMESPACE = b"versions", b"mulm"
_TIMEOUT_S = 10.0
_PACKAGES = ("mulm", "actors", "serve_app", "jobs")


@dataclass(frozen=True, slots=True)
class Versions:
    """Of one machine; `code` is a hash of the project's own modules."""

    python: str
    ray: str
    torch: str
    mulm: str
    code: str

    @classmethod
    def of_this_machine(cls) -> Versions:
        """What is installed here."""
        torch = version("torch").partition("+")[0]  # the same with CUDA and without
        return cls(platform.python_version(), version("ray"), torch, mulm.__version__, code_hash())


def code_hash() -> str:
    """Twelve hexadecimal digits over all modules of the project."""
    root, digest = Path(mulm.__file__).parents[1], sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def misfit(head: Versions, own: Versions) -> tuple[str, str] | None:
    """What keeps a machine from joining and what to do; None where they fit."""
    if _minor(head.python) != _minor(own.python):
        return (
            f"the head runs Python {head.python}, this machine {own.python}",
            f"make .venv anew with Python {_minor(head.python)}:"
            f" rm -rf .venv; make setup PYTHON=python{_minor(head.python)}",
        )
    for name in ("ray", "torch"):
        theirs, ours = getattr(head, name), getattr(own, name)
        if theirs != ours:
            return (
                f"the head runs {name} {theirs}, this machine {ours}",
                "use the same commit of the project on both, and `make setup` there",
            )
    if (head.mulm, head.code) != (own.mulm, own.code):
        return (
            f"the head runs µLM {head.mulm} ({head.code}), this machine {own.mulm} ({own.code})",
            "use the same commit of the project on both: `git rev-parse HEAD` tells",
        )
    return None


def publish(gcs_address: str) -> None:
    """Leave this machine's versions where joiners find them; called on the head."""
    content = json.dumps(asdict(Versions.of_this_machine())).encode()
    _client(gcs_address).internal_kv_put(_KEY, content, True, namespace=_NAMESPACE)


def parse(text: str) -> Versions:
    """What `main` printed."""
    said: Mapping[str, str] = json.loads(text)
    return Versions(**said)


def main(gcs_address: str) -> int:
    """Print the head's versions; 1 where there are none."""
    content = _client(gcs_address).internal_kv_get(_KEY, namespace=_NAMESPACE, timeout=_TIMEOUT_S)
    if content is None:
        return 1
    print(content.decode())
    return 0


def _client(gcs_address: str):  # type: ignore[no-untyped-def]
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=gcs_address)


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
