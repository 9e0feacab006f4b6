from __future__ import annotations

import asyncio

from serve_app.probe import MAX_AGE_S, Probe


def test_many_ask_and_the_engine_is_asked_once_a_second():
    now_s = 0.0
    answers = [True, False]
    asked = []

    async def ask() -> bool:
        asked.append(now_s)
        await asyncio.sleep(0.01)
        return answers[len(asked) - 1]

    async def check():
        nonlocal now_s
        probe = Probe(ask, lambda: now_s)
        assert await asyncio.gather(*[probe() for _ in range(50)]) == [True] * 50
        now_s += MAX_AGE_S / 2
        assert await probe()
        assert len(asked) == 1
        now_s += MAX_AGE_S
        assert await asyncio.gather(*[probe() for _ in range(50)]) == [False] * 50
        assert len(asked) == 2

    asyncio.run(check())


def test_one_who_leaves_takes_nobody_else_the_answer():
    async def ask() -> bool:
        await asyncio.sleep(0.05)
        return True

    async def check():
        probe = Probe(ask)
        first, second = asyncio.create_task(probe()), asyncio.create_task(probe())
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second

    asyncio.run(check())
