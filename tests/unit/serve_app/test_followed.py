from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mulm.errors import NotFoundError
from serve_app.followed import Followed
from serve_app.settings import AppArgs

ARGS = AppArgs(model="tiny@1")


async def until(is_true) -> None:
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(0.001)


@pytest.fixture
def models(served):
    return {ref: replace(served, ref=ref, model_id=f"mdl_{ref}") for ref in ("tiny@1", "tiny@2")}


@pytest.fixture
def followed(scripted, models):
    def read(args, engine):
        if str(args.ref) not in models:
            raise NotFoundError(f"no model {args.ref}")
        return replace(models[str(args.ref)], engine=engine)

    return Followed(scripted, read, lambda _args: ("",), poll_s=0.001)


def test_a_model_is_served_when_an_engine_has_it_and_the_old_one_until_then(scripted, followed):
    async def check():
        await followed.reconfigure(ARGS)
        await asyncio.sleep(0.02)
        assert followed.served is None
        assert not await followed.is_ready()
        scripted.held.add("mdl_tiny@1")
        await until(lambda: followed.is_current)
        await followed.reconfigure(AppArgs(model="tiny@2"))
        await asyncio.sleep(0.02)
        assert (followed.served.ref, followed.is_current) == ("tiny@1", False)
        scripted.held.add("mdl_tiny@2")
        await until(lambda: followed.is_current)
        assert followed.served.ref == "tiny@2"
        assert await followed.is_ready()
        followed.stop()

    asyncio.run(check())


def test_where_no_engine_is_kept_nobody_is_asked(scripted, followed):
    async def check():
        scripted.ready = False
        await followed.reconfigure(ARGS.model_copy(update={"min_replicas": 0}))
        await until(lambda: followed.is_current)
        assert await followed.is_ready()
        assert scripted.n_probes == 0

    asyncio.run(check())


def test_what_cannot_be_read_is_a_problem_and_the_old_one_answers(scripted, followed):
    async def check():
        scripted.held.add("mdl_tiny@1")
        await followed.reconfigure(ARGS)
        await until(lambda: followed.is_current)
        await followed.reconfigure(AppArgs(model="gone@1"))
        assert followed.problem == "no model gone@1"
        assert followed.served.ref == "tiny@1"
        await followed.reconfigure(ARGS)
        assert followed.problem == ""

    asyncio.run(check())


def test_an_alias_that_is_not_wanted_any_more_is_not_followed(scripted, models):
    points_to = ["tiny@1"]

    def read(args, engine):
        if str(args.ref) == "gone@1":
            raise NotFoundError("no model gone@1")
        return replace(models[points_to[0]], engine=engine)

    scripted.held.update(("mdl_tiny@1", "mdl_tiny@2"))
    followed = Followed(scripted, read, lambda _args: (f"mdl_{points_to[0]}",), poll_s=0.001)
    followed._alias._period_s = 0.001

    async def check():
        await followed.reconfigure(AppArgs(model="tiny@live"))
        await until(lambda: followed.is_current)
        await followed.reconfigure(AppArgs(model="gone@1", served_name="tiny"))
        points_to[0] = "tiny@2"
        await asyncio.sleep(0.05)
        assert (followed.served.ref, followed.problem) == ("tiny@1", "no model gone@1")
        followed.stop()

    asyncio.run(check())
