"""An adapter over HTTP is a model: it answers as the model into which it was merged does."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import openai
import pytest

from mulm.ledger import Ledger
from mulm.model.stored import load_adapter, load_model
from mulm.store import Store
from mulm.testing import tiny_stored_adapter, tiny_stored_model, tiny_tokenizer
from serve_app.chosen_adapter import choose_adapters
from serve_app.engine_host import EngineHost
from serve_app.ingress import make_app
from serve_app.metrics import MeasuredClient, ServiceMetrics
from serve_app.opened_model import OpenedModel
from serve_app.served import open_served
from serve_app.service import Service
from serve_app.settings import AppArgs

ADAPTERS = {"poems": "poems@1", "letters": "letters@1"}
LONG = "Hello there, how are you? The wizard isn't here. " * 3


class LocalHost:
    """The engine host in this process, behind the client's interface."""

    def __init__(self, host):
        self.host = host

    async def generate(self, model_id, request):
        async with aclosing(self.host.generate(model_id, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def is_ready(self):
        return True

    async def holds(self, _model_id):
        return True


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def facts(tmp_path, store):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        base = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=256)
        ledger.publish("model", "demo", base.id)
        for seed, name in enumerate(ADAPTERS):
            ledger.publish("model", name, tiny_stored_adapter(store, base, seed).id)
        yield ledger


def open_model(store, facts):
    def of(args):
        manifest = store.load(facts.resolve("model", args.ref).manifest_id)
        return OpenedModel(manifest.id, load_model(store, manifest))

    return of


def open_adapters(store, facts):
    def of(args, model_id):
        chosen = choose_adapters(args, store.load(model_id), store, facts)
        return {
            each.id: None if each.problem else load_adapter(store, store.load(each.id))
            for each in chosen
        }

    return of


@pytest.fixture
def serving(store, facts, client, keys, raw):
    """Runs a coroutine with the official client, and a bare one, of what `args` say."""

    def run(work, model="demo@1", adapters=ADAPTERS, **more):
        async def go():
            args = AppArgs(model=model, adapters=adapters, n_slots=4, **more)
            host = EngineHost(
                open_model(store, facts), open_adapters=open_adapters(store, facts),
                resolve=lambda _args: ("",), follow_period_s=1000,
            )  # fmt: skip
            await host.reconfigure(args.model_dump(mode="json"))
            names = {}
            metrics = ServiceMetrics(list)
            engine = MeasuredClient(LocalHost(host), metrics, names.__getitem__)
            served = open_served(args, store, facts, engine)
            names[served.model_id] = served.name
            names |= {each.id: each.name for each in served.adapters}
            app = make_app(Service.of(served, metrics.text), keys)
            try:
                return await work(client(app), raw(app))
            finally:
                await host.stop()

        return asyncio.run(go())

    return run


async def answers(client, model):
    """What all routes say, and nothing that tells one request from another."""
    options = {"model": model, "temperature": 0.0}
    text = await client.completions.create(prompt="Hello", max_tokens=12, **options)
    message = {"role": "user", "content": "how are you?"}
    chat = await client.chat.completions.create(messages=[message], max_tokens=12, **options)
    response = await client.responses.create(input="The wizard", max_output_tokens=12, **options)
    vectors = await client.embeddings.create(model=model, input="isn't here")
    return {
        "text": text.choices[0].text,
        "chat": chat.choices[0].message.content,
        "response": response.output_text,
        "embedding": pytest.approx(vectors.data[0].embedding, abs=1e-3),
    }


def test_it_answers_as_the_merged_model_does_and_unlike_the_others(serving):
    async def all_at_once(client, _http):
        names = ("demo", *ADAPTERS)
        found = await asyncio.gather(*(answers(client, name) for name in names))
        return dict(zip(names, found, strict=True))

    mixed = serving(all_at_once)
    for name in ADAPTERS:
        alone = serving(lambda client, _http, n=name: answers(client, n), f"{name}@1", {})
        for route, said in alone.items():
            expected = said.expected if route == "embedding" else said
            assert mixed[name][route] == expected, route
    alone = serving(lambda client, _http: answers(client, "demo"), adapters={})
    assert {**mixed["demo"], "embedding": 0} == {**alone, "embedding": 0}
    assert len({said["text"] for said in mixed.values()}) == 3


def test_models_are_listed_with_their_parent(serving):
    async def check(client, http):
        listed = (await http.get("/v1/models")).json()["data"]
        assert [(each["id"], each["root"], each["parent"]) for each in listed] == [
            ("tiny", "demo@1", None), ("poems", "poems@1", "tiny"), ("letters", "letters@1", "tiny")
        ]  # fmt: skip
        assert (await http.get("/v1/models/letters")).json() == listed[2]
        for name in ("poems", "poems@1"):
            reply = await client.completions.create(model=name, prompt="Hello", max_tokens=2)
            assert reply.model == "poems"
        base = await client.completions.create(model="tiny", prompt="Hello", max_tokens=2)
        assert base.system_fingerprint != reply.system_fingerprint
        with pytest.raises(openai.NotFoundError, match=r"served: tiny, poems, letters") as unknown:
            await client.completions.create(model="prose", prompt="Hello")
        assert unknown.value.code == "model_not_found"
        count = await http.post("/v1/tokenize", json={"model": "poems", "prompt": "Hello"})
        assert count.json()["count"] > 0

    serving(check, served_name="tiny")


def test_a_name_counts_before_a_reference(serving):
    async def check(_client, http):
        found = {name: (await http.get(f"/v1/models/{name}")).json() for name in adapters}
        assert {name: model["root"] for name, model in found.items()} == {
            "x": "poems@1", "poems": "letters@1", "demo": "letters@1"
        }  # fmt: skip

    adapters = {"x": "poems", "poems": "letters@1", "demo": "letters@1"}
    serving(check, "demo", adapters, served_name="tiny")


def test_the_prefix_cache_never_mixes_adapters(serving):
    async def check(client, _http):
        async def cached(model):
            reply = await client.completions.create(model=model, prompt=LONG, max_tokens=2)
            return reply.usage.prompt_tokens_details.cached_tokens

        assert [await cached(name) for name in ("demo", *ADAPTERS)] == [0, 0, 0]
        assert all([await cached(name) >= 16 for name in ("demo", *ADAPTERS)])

    serving(check)


def test_one_that_fits_no_more_is_told_and_the_others_answer(store, facts, serving):
    facts.set_alias("model", "demo", "live", 1)
    other = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=128)
    own = tiny_stored_adapter(store, other, 5)
    facts.publish("model", "own", own.id)

    async def before(client, http):
        assert len((await http.get("/v1/models")).json()["data"]) == 2
        with pytest.raises(openai.ConflictError, match="own@1 is of another model than demo@live"):
            await client.completions.create(model="own", prompt="Hello")
        await client.completions.create(model="poems", prompt="Hello")

    async def after(client, http):
        assert [each["id"] for each in (await http.get("/v1/models")).json()["data"]] == [
            "demo", "own"
        ]  # fmt: skip
        with pytest.raises(openai.ConflictError, match="poems@1 is of another model") as refused:
            await client.completions.create(model="poems", prompt="Hello")
        assert refused.value.param == "model"
        await client.completions.create(model="own", prompt="Hello")

    adapters = {"poems": "poems@1", "own": "own@1"}
    serving(before, "demo@live", adapters)
    facts.publish("model", "demo", other.id)
    facts.set_alias("model", "demo", "live", 2)
    serving(after, "demo@live", adapters)


def test_metrics_of_requests_go_by_the_name_that_was_asked_for(serving):
    async def check(client, http):
        await client.completions.create(model="poems", prompt="Hello", max_tokens=2, seed=1)
        return (await http.get("/metrics")).text

    told = serving(check)
    assert 'mulm:request_success_total{finished_reason="length",model_name="poems"} 1.0' in told
    assert 'model_name="demo"' not in told
