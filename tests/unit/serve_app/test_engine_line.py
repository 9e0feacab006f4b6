"""Which engine is asked, and the line, over links whose other end is in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random

import pytest

from mulm.errors import OverloadedError
from mulm.messages import GenerateRequest
from serve_app.engine_client import EngineBusyError
from serve_app.engine_line import EngineLine, choose
from serve_app.prefix_key import marks_of
from serve_app.waiting_line import Asking
from tests.unit.quick import shortest_s
from tests.unit.serve_app.linked_engine import LinkedEngine, turns_of_the_loop

VOCABULARY = 5000


@dataclass
class Chat:
    """What was said so far."""

    name: str
    ids: tuple[int, ...]
    engines: list[str] = field(default_factory=list)
    """Who answered each turn."""


class Town:
    """Engines of one application, an ingress, and chats with them."""

    def __init__(self, n_engines: int, n_slots: int = 32, **options) -> None:
        self.random = Random(0)
        self.line = EngineLine()
        self.engines = [
            LinkedEngine(self.line, f"e{n}", n_slots, **options) for n in range(n_engines)
        ]
        self.asked: dict[str, asyncio.Task[None]] = {}
        self._n_asked = 0

    def words(self, n: int) -> tuple[int, ...]:
        return tuple(self.random.choices(range(VOCABULARY), k=n))

    def chats(self, n: int, first: int, common: tuple[int, ...] = ()) -> list[Chat]:
        return [Chat(f"c{number}", common + self.words(first)) for number in range(n)]

    async def ask(self, ids: tuple[int, ...]) -> str:
        """Send a prompt; its request's id."""
        self._n_asked += 1
        name = f"r{self._n_asked}"
        self.asked[name] = asyncio.create_task(self._read(GenerateRequest(name, ids)))
        await turns_of_the_loop()
        return name

    async def _read(self, request: GenerateRequest) -> None:
        async with aclosing(self.line.generate("m", request)) as chunks:
            async for _ in chunks:
                pass

    def engine_of(self, name: str) -> LinkedEngine:
        return next(each for each in self.engines if name in each.requests)

    async def answer(self, name: str, ids: tuple[int, ...]) -> None:
        self.engine_of(name).answer(name, ids)
        await self.asked.pop(name)

    async def leave(self, name: str) -> None:
        self.asked[name].cancel()
        await asyncio.gather(self.asked.pop(name), return_exceptions=True)
        await turns_of_the_loop()

    async def talk(self, chat: Chat, n_words: int = 20, n_answer: int = 40) -> None:
        """A turn, answered at once, and the next question."""
        name = await self.ask(chat.ids)
        chat.engines.append(self.engine_of(name).name)
        answer = self.words(n_answer)
        await self.answer(name, answer)
        chat.ids += answer + self.words(n_words)

    def n_running(self) -> list[int]:
        return [len(each.requests) for each in self.engines]


def run(check):
    async def whole():
        async with asyncio.timeout(60.0):
            await check()

    asyncio.run(whole())


@pytest.mark.parametrize("first", [12, 20, 40, 60, 200])
def test_turns_of_one_chat_have_one_home(first):
    async def check():
        town = Town(4)
        chats = town.chats(40, first)
        for _ in range(4):
            for chat in chats:
                await town.talk(chat)
        assert all(len(set(chat.engines)) == 1 for chat in chats)

    run(check)


def test_chats_that_begin_differently_are_spread():
    async def check():
        town = Town(4)
        chats = town.chats(100, 60)
        for chat in chats:
            await town.talk(chat)
        counts = Counter(chat.engines[0] for chat in chats)
        assert min(counts[each.name] for each in town.engines) > 10

    run(check)


@pytest.mark.parametrize("n_common", [40, 100, 300])
def test_prompts_that_share_a_long_beginning_have_one_home(n_common):
    async def check():
        town = Town(4)
        chats = town.chats(20, 10, common=town.words(n_common))
        for chat in chats:
            await town.talk(chat)
        assert len({chat.engines[0] for chat in chats}) == 1

    run(check)


@pytest.mark.parametrize("n_common", [0, 100])
def test_many_chats_at_once_find_their_pages_and_do_not_pile_up(n_common):
    """As where each chat has the same system prompt, and where none has one."""

    async def check():
        town = Town(4, n_slots=8)
        chats = town.chats(24, 30, common=town.words(n_common))
        for round_ in range(8):
            town.random.shuffle(chats)
            if round_ == 2:  # beginnings are known by now
                for each in town.engines:
                    each.n_found = each.n_read = 0
            names = []
            for chat in chats:
                names.append(await town.ask(chat.ids))
                counts = town.n_running()
                assert max(counts) - min(counts) <= 8 // 2 + 1
            for name, chat in zip(names, chats, strict=True):
                answer = town.words(30)
                await town.answer(name, answer)
                chat.ids += answer + town.words(20)
        n_found, n_read = (
            sum(getattr(each, name) for each in town.engines) for name in ("n_found", "n_read")
        )
        # A perfect router has 20 tokens of each turn read, and those of a page that is not full.
        assert n_found / (n_found + n_read) > 0.8

    run(check)


def test_one_system_prompt_for_all_is_read_by_each_engine_and_load_stays_level():
    async def check():
        town = Town(4, n_slots=8)
        for chat in town.chats(28, 10, common=town.words(300)):
            await town.ask(chat.ids)
        assert min(town.n_running()) >= 6
        assert max(each.n_read for each in town.engines) < 320 + 8 * 30

    run(check)


def test_a_home_without_a_free_slot_is_not_waited_for():
    async def check():
        town = Town(2, n_slots=2)
        prompt = town.words(100)
        names = [await town.ask(prompt) for _ in range(2)]
        home = town.engine_of(names[0])
        assert town.engine_of(names[1]) is home, "one stream more is worth less than the prompt"
        other = town.engine_of(await town.ask(prompt))
        assert other is not home
        for name in names:
            await town.answer(name, (1,))
        await town.ask(town.words(100))
        assert choose(town.line.links, marks_of("m", None, prompt)) in (home.link, other.link)

    run(check)


def test_what_an_engine_that_ended_had_read_is_forgotten():
    async def check():
        town = Town(3)
        chat = town.chats(1, 100)[0]
        await town.talk(chat)
        ended = next(each for each in town.engines if each.name == chat.engines[0])
        town.line.links.discard(ended.link)
        await town.talk(chat)
        await town.talk(chat)
        assert ended.name not in chat.engines[1:]
        assert chat.engines[1] == chat.engines[2]

    run(check)


def test_two_ingresses_have_one_home_for_what_is_new_to_them():
    async def check():
        one, other = Town(4), Town(4)
        for chat in one.chats(40, 60):
            again = Chat(chat.name, chat.ids)
            await one.talk(chat)
            await other.talk(again)
            assert chat.engines == again.engines

    run(check)


def test_who_leaves_the_line_is_gone_from_it_at_once():
    async def check():
        town = Town(1, n_slots=1)
        names = [await town.ask((n,) * 10) for n in range(5)]
        assert town.n_running() == [2]
        assert (len(town.line._waiting), town.line._waiting.n_tokens) == (3, 30)
        await town.leave(names[3])
        assert (len(town.line._waiting), town.line._waiting.n_tokens) == (2, 20)
        for name in (names[0], names[1], names[2], names[4]):
            await town.answer(name, (1,))
        assert not town.line._waiting
        assert town.line._waiting.n_tokens == 0

    run(check)


def test_those_that_a_full_engine_refused_go_first_in_their_old_order():
    async def check():
        town = Town(1, n_slots=1)
        names = [await town.ask((n,)) for n in range(4)]
        engine = town.engines[0]
        for name in names[:2]:  # other ingresses were faster
            engine.refuse(name, EngineBusyError("every place is taken"))
        await turns_of_the_loop()
        assert not engine.requests
        order = []
        engine.link._is_full = False  # as after a report
        town.line.serve()
        while town.asked:
            await turns_of_the_loop()
            order.append(next(iter(engine.requests)))
            await town.answer(order[-1], (1,))
        assert order == names

    run(check)


def test_engines_are_told_their_share_of_what_waits_and_one_that_leaves_nothing():
    async def check():
        town = Town(2, n_slots=1)
        for _ in range(7):
            await town.ask((1,) * 100)
        town.line.tell_waiting()
        await turns_of_the_loop()
        assert [each.told for each in town.engines] == [[b"=1 150"], [b"=2 150"]]
        town.engines[0].link.is_leaving = True
        town.line.tell_waiting()
        town.line.tell_waiting()
        await turns_of_the_loop()
        assert [each.told[1:] for each in town.engines] == [[b"=0 0"], [b"=3 300"]]

    run(check)


def test_to_enter_and_to_leave_cost_the_same_however_many_wait():
    async def seconds(n_waiting: int) -> float:
        line = EngineLine()
        LinkedEngine(line, "e", n_slots=1, max_queued=1 << 20)

        def asking(number: int) -> Asking:
            return Asking("m", GenerateRequest(f"r{number}", (1,)), (), float(number))

        others = [asking(number) for number in range(n_waiting + 2)]
        for each in others:
            line._enter(each)
        assert len(line._waiting) == n_waiting

        def come_and_go() -> None:
            for number in range(300):
                new = asking(n_waiting + 2 + number)
                line._enter(new)
                line._leave(others[n_waiting // 2 + number], cancels=True)
                line._leave(new, cancels=True)
                line._enter(others[n_waiting // 2 + number])

        return shortest_s(come_and_go, 0.0)

    async def check():
        assert await seconds(100_000) < 20 * await seconds(1000)

    run(check)


def test_the_line_is_full_with_as_many_as_are_offered():
    async def check():
        town = Town(1, n_slots=1, max_queued=3)
        for n in range(5):
            await town.ask((n,))
        name = await town.ask((9,))
        with pytest.raises(OverloadedError):
            await town.asked[name]

    run(check)
