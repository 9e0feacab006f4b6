from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mulm.engine.stats import EngineStats
from mulm.errors import NotRunningError
from mulm.messages import TokenChunk, TokenLogprob
from serve_app.chunk_codec import decode_chunk, encode_chunk
from serve_app.engine_report import EngineReport
from serve_app.token_channel import ReplyTo, TokenReceiver, TokenSender, UnreachableError

REPORT = EngineReport("m", "eng_1", EngineStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
PLAIN = TokenChunk("a", (1, 2, 3))
FULL = TokenChunk(
    "b",
    (7,),
    "stop",
    2,
    (TokenLogprob(7, -0.1 / 3, ((7, -0.1 / 3), (9, float("-inf")))),),
    (None, TokenLogprob(4, -2.5)),
    16,
    (0.1, -3e-9),
)


@pytest.mark.parametrize("chunk", [PLAIN, FULL, TokenChunk("c", (), "deadline", 1)])
def test_what_is_read_equals_what_was_written(chunk):
    line = encode_chunk(chunk)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode_chunk(line) == chunk


def running(n_running: int) -> EngineReport:
    return replace(REPORT, stats=replace(REPORT.stats, n_running=n_running))


async def take(mailbox) -> TokenChunk:
    return await asyncio.wait_for(mailbox.get(), 5.0)


def test_each_mailbox_gets_its_own_chunks_in_order():
    async def check():
        receiver, sender = TokenReceiver("127.0.0.1"), TokenSender()
        reply_to = await receiver.reply_to()
        assert await receiver.reply_to() == reply_to
        with receiver.mailbox("a") as one, receiver.mailbox("b") as other:
            connection = await sender.connect(reply_to)
            assert await sender.connect(reply_to) is connection
            for number in range(100):
                await sender.send(connection, replace(PLAIN, token_ids=(number,)))
                await sender.send(connection, replace(PLAIN, request_id="nobody"))
            await sender.send(connection, FULL)
            found = [await take(one) for _ in range(100)]
            assert [chunk.token_ids for chunk in found] == [(number,) for number in range(100)]
            assert await take(other) == FULL
            assert one.empty()
        await sender.close()
        await receiver.close()

    asyncio.run(check())


def test_a_chunk_may_be_large():
    large = replace(FULL, prompt_logprobs=(None, *[TokenLogprob(4, -2.5, ((1, -0.5),))] * 50_000))

    async def check():
        receiver, sender = TokenReceiver("127.0.0.1"), TokenSender()
        with receiver.mailbox("b") as mailbox:
            await sender.send(await sender.connect(await receiver.reply_to()), large)
            assert await take(mailbox) == large
        await sender.close()
        await receiver.close()

    asyncio.run(check())


def test_reports_of_engines_come_the_same_way_and_go_with_their_connection():
    async def check():
        receiver, sender = TokenReceiver("127.0.0.1"), TokenSender()
        sender.report([REPORT])
        connection = await sender.connect(await receiver.reply_to())
        for n_running in (1, 2):
            sender.report([running(n_running)])
        with receiver.mailbox("a") as mailbox:
            await sender.send(connection, PLAIN)
            await take(mailbox)
        assert receiver.reports() == [running(2)]
        await sender.close()
        while receiver.reports():
            await asyncio.sleep(0.01)
        await receiver.close()

    asyncio.run(asyncio.wait_for(check(), 10))


def test_nobody_is_heard_without_the_secret():
    async def check():
        receiver = TokenReceiver("127.0.0.1")
        reply_to = await receiver.reply_to()
        for said in (b"", b"\n", b"0" * 32 + b"\n", reply_to.secret.encode()[:-1] + b"\n"):
            with receiver.mailbox("a") as mailbox:
                reader, writer = await asyncio.open_connection(reply_to.host, reply_to.port)
                writer.write(said + encode_chunk(PLAIN))
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 10.0) == b""
                assert mailbox.empty()
                writer.close()
        await receiver.close()

    asyncio.run(check())


def test_nonsense_ends_its_own_connection_only():
    async def check():
        receiver, sender = TokenReceiver("127.0.0.1"), TokenSender()
        reply_to = await receiver.reply_to()
        with receiver.mailbox("a") as mailbox:
            reader, writer = await asyncio.open_connection(reply_to.host, reply_to.port)
            writer.write(reply_to.secret.encode() + b"\n{nonsense\n")
            assert await asyncio.wait_for(reader.read(), 10.0) == b""
            writer.close()
            await sender.send(await sender.connect(reply_to), PLAIN)
            assert await take(mailbox) == PLAIN
        await sender.close()
        await receiver.close()

    asyncio.run(check())


def test_who_cannot_be_reached_is_told_before_anything_is_generated():
    async def check():
        receiver = TokenReceiver("127.0.0.1")
        reply_to = await receiver.reply_to()
        await receiver.close()
        with pytest.raises(UnreachableError):
            await TokenSender().connect(reply_to)

    asyncio.run(check())


def test_an_ingress_that_went_is_an_error_and_the_next_call_connects_anew():
    async def check():
        heard = []

        async def serve(reader, writer):
            heard.append(await reader.readline())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        sender = TokenSender()
        reply_to = ReplyTo("127.0.0.1", server.sockets[0].getsockname()[1], "s")
        connection = await sender.connect(reply_to)
        with pytest.raises(NotRunningError):  # noqa: PT012 - the first writes may still fit
            for _ in range(1000):
                await sender.send(connection, PLAIN)
                await asyncio.sleep(0.001)
        assert await sender.connect(reply_to) is not connection
        server.close()
        await sender.close()

    asyncio.run(check())
