"""The whole way over HTTP: real Serve, real engine, a tiny random model, the official client."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from actors.cluster_info import read_token
from actors.head import ENV_VARIABLES_OF_RAY
from mulm.errors import JobFailedError
from serve_app.deploy import deploy, undeploy
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs

pytestmark = pytest.mark.cluster

WINDOW = 60_000
"""So long that a request for all of it never ends by itself within a test."""

_PUBLISH = f"""
import sys
import ray, torch
from actors.ledger_host import connect_facts
from mulm.data.tokenizer import train_tokenizer
from mulm.home import Home
from mulm.model.stored import store_model
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.store import Store
from serve_app.keys import ensure_first_key

home = Home.from_env()
tokenizer = train_tokenizer(["the quick brown fox"], 288)
config = MicroLMConfig(vocab_size=288, d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, d_head=8,
                       d_ff=16, max_seq_len={WINDOW})
ray.init(sys.argv[1], namespace="mulm", log_to_driver=False, logging_level="ERROR")
facts = connect_facts()
ensure_first_key(home, facts)
for seed in (1, 2):
    model = MicroLM(config).init_weights(torch.Generator().manual_seed(seed))
    manifest = store_model(Store(home.store), model, tokenizer.to_bytes(), tokenizer.fingerprint,
                           config={{"seed": seed}}, parents={{}})
    print(facts.publish("model", "served-in-test", manifest.id).ref)
"""


def put(cluster, ref: str, **options) -> None:
    """Deploy with one slot and one place in each line, so that little is enough to fill it."""
    args = AppArgs(model=ref, served_name="tiny", n_slots=1, max_queued=1, max_replicas=1)
    deploy(cluster.info, read_token(cluster.home), args.model_copy(update=options))


@pytest.fixture(scope="module")
def refs(cluster) -> list[str]:
    command = [sys.executable, "-c", _PUBLISH, cluster.info.gcs_address]
    env = cluster.env | ENV_VARIABLES_OF_RAY  # a driver outside the cluster, on loopback too
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def served(cluster, refs):
    put(cluster, refs[0])
    yield cluster
    undeploy(cluster.info, read_token(cluster.home))


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(
        api_key=read_first_key(served.home),
        base_url=f"{served.info.api_url}/v1",
        max_retries=0,
        timeout=60.0,
    ) as made:
        yield made


def ask(client, **options):
    return client.completions.create(model="tiny", prompt="the", **{"max_tokens": 5} | options)


def endless(client):
    """A stream that holds the only slot; its first token has come."""
    stream = ask(client, max_tokens=WINDOW - 10, temperature=0, stream=True)
    next(iter(stream))
    return stream


def test_models_completion_chat_and_stream(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert ask(client).usage.completion_tokens <= 5
    options = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 40,
        "seed": 3,
    }
    whole = client.chat.completions.create(**options)
    pieces = [
        choice.delta.content or ""
        for chunk in client.chat.completions.create(**options, stream=True)
        for choice in chunk.choices
    ]
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_wrong_key_is_refused(served, client):
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="mulm_sk_wrong").models.list()
    assert httpx.get(f"{served.info.api_url}/healthz").is_success
    assert httpx.get(f"{served.info.api_url}/readyz").is_success


def test_a_prompt_that_is_too_long_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, max_tokens=WINDOW)
    assert refused.value.code == "context_length_exceeded"


def test_a_reader_that_leaves_frees_its_slot(client):
    endless(client).close()
    assert ask(client).usage.completion_tokens <= 5


def test_a_caller_that_gives_up_frees_its_slot(client):
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=1.0), max_tokens=WINDOW - 10, temperature=0)
    assert ask(client).usage.completion_tokens <= 5


def test_more_than_fits_is_told_to_come_back(client):
    holder = endless(client)
    refused: list[openai.APIStatusError] = []
    is_refused = threading.Event()

    def press(_number: int) -> None:
        try:
            ask(client.with_options(timeout=10.0))
        except openai.APITimeoutError:
            pass
        except openai.APIStatusError as error:
            refused.append(error)
            is_refused.set()

    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(press, number) for number in range(6)]
        assert is_refused.wait(30)
        holder.close()
        for future in waiting:
            future.result()
    assert {error.status_code for error in refused} == {503}
    assert refused[0].code == "overloaded"
    assert refused[0].response.headers["retry-after"]
    assert ask(client).usage.completion_tokens <= 5


def test_another_model_is_taken_over_in_place(cluster, refs, client):
    before = ask(client).system_fingerprint
    put(cluster, refs[1])
    assert ask(client).system_fingerprint != before
    put(cluster, refs[0])
    assert ask(client).system_fingerprint == before


def test_a_deployment_that_cannot_start_says_why(cluster, refs, client):
    with pytest.raises(JobFailedError, match="no model 'nobody@1'"):
        put(cluster, "nobody@1")
    put(cluster, refs[0])
    assert ask(client).usage.completion_tokens <= 5
