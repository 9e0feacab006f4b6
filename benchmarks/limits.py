"""What accounts cost a request: its key checked, all limits taken, tokens settled, headers told.

    python -m benchmarks.limits [--keys 1000]

No network and no ledger: what is measured is what an ingress adds to each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from mulm.accounts import Key, KeyLimits, Rates
from serve_app.auth import KeyRing
from serve_app.key_text import digest_of, make_text
from serve_app.limiter import Limiter
from serve_app.usage_writer import UsageWriter

_LARGE = 10**12
_LIMITS = {"requests_per_minute": _LARGE, "tokens_per_minute": _LARGE, "max_concurrent": 1000}
_SECRET = b"s" * 32


async def measure(n_keys: int, n_requests: int) -> dict[str, float]:
    """Microseconds a request by step, the mean of the fastest of three rounds."""
    texts = [make_text(f"key_{number:012x}") for number in range(n_keys)]
    limits = KeyLimits(**_LIMITS, token_quota=_LARGE)
    keys = {
        digest_of(text, _SECRET): Key(f"key_{number}", "x", 0.0, "all", limits=limits)
        for number, text in enumerate(texts)
    }
    ring = KeyRing(lambda: keys, _SECRET)
    usage = UsageWriter(lambda *_: {})
    await usage.flush()
    limiter = Limiter(usage, Rates(**_LIMITS))
    await ring.verify(texts[0])
    found: dict[str, float] = {"check_us": float("inf"), "limit_us": float("inf")}
    for _ in range(3):
        begun_s = time.perf_counter()
        known = [await ring.verify(texts[n % n_keys]) for n in range(n_requests)]
        checked_s = time.perf_counter()
        for key in known:
            ticket = limiter.admit(key)
            ticket.reserve("tiny", 500)
            ticket.spend(100, 50)
            dict(limiter.headers(key))
            ticket.close()
        ended_s = time.perf_counter()
        for name, seconds in (
            ("check_us", checked_s - begun_s),
            ("limit_us", ended_s - checked_s),
        ):
            found[name] = min(found[name], seconds / n_requests * 1e6)
    return found | {"sum_us": sum(found.values())}


def main() -> None:
    """Print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20_000)
    given = parser.parse_args()
    found = asyncio.run(measure(given.keys, given.requests))
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


if __name__ == "__main__":
    main()
