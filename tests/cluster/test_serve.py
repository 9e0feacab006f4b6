"""The whole way over HTTP: real Serve, real engine, a tiny random model, the official client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from actors.dashboard import Dashboard
from actors.head import ENV_VARIABLES_OF_RAY
from actors.processes import Pack
from actors.write_fact import write_fact
from jobs.serve_model import serve_model
from mulm.errors import JobFailedError, NotFoundError
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

_LOAD = """
import json, sys
import ray
from ray import serve

ray.init(sys.argv[1], namespace="mulm", log_to_driver=False, logging_level="ERROR")
handle = serve.get_deployment_handle("engine", "engine-tiny")
for _ in sys.stdin:
    print(json.dumps(handle.load.remote().result(timeout_s=10)), flush=True)
"""


def put(cluster, ref: str, **options) -> None:
    """Deploy with one slot and one place in each line, so that little is enough to fill it."""
    args = AppArgs(model=ref, served_name="tiny", n_slots=1, max_queued=1, max_replicas=1)
    args = args.model_copy(update=options)
    serve_model(cluster.info, args, home=cluster.home)


@pytest.fixture(scope="module")
def refs(cluster) -> list[str]:
    command = [sys.executable, "-c", _PUBLISH, cluster.info.gcs_address]
    env = cluster.env | ENV_VARIABLES_OF_RAY  # a driver outside the cluster, on loopback too
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def served(cluster, refs):
    put(cluster, refs[0])
    return cluster


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(
        api_key=read_first_key(served.home),
        base_url=f"{served.info.api_url}/v1",
        max_retries=0,
        timeout=60.0,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def load(served):
    """What the engine does, asked through its own handle, in a process inside the cluster."""
    env = served.env | ENV_VARIABLES_OF_RAY
    command = [sys.executable, "-c", _LOAD, served.info.gcs_address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as asking:

        def ask_load() -> dict:
            asking.stdin.write("\n")
            asking.stdin.flush()
            return json.loads(asking.stdout.readline())

        yield ask_load
        asking.stdin.close()


def call(client, method: str, path: str, body=None):
    """Ask the control API; returns JSON."""
    url = f"{str(client.base_url).removesuffix('/v1/')}/api/v1{path}"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    reply = httpx.request(method, url, json=body, headers=headers, timeout=60.0, trust_env=False)
    assert reply.is_success, reply.text
    return reply.json() if reply.content else None


def wait_for(is_true, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


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


def test_everything_listens_on_loopback(served):
    processes = Pack(served.home, served.info.id).find()
    listening = [c for p in processes for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert served.info.http_port in {c.laddr.port for c in listening}
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_a_prompt_that_is_too_long_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, max_tokens=WINDOW)
    assert refused.value.code == "context_length_exceeded"


def test_a_reader_that_leaves_frees_its_slot(client, load):
    stream = endless(client)
    assert load()["n_unfinished"] == 1
    stream.close()
    wait_for(lambda: load()["n_unfinished"] == 0, 2.0)


def test_a_caller_that_gives_up_frees_its_slot(client, load):
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=1.0), max_tokens=WINDOW - 10, temperature=0)
    wait_for(lambda: load()["n_unfinished"] == 0, 2.0)


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


def test_when_an_engine_dies_its_streams_say_so_and_what_had_no_token_is_answered(cluster, client):
    dashboard = Dashboard.of(cluster.info, cluster.home)

    def pids() -> list[int]:
        details = dashboard.request("GET", "/api/serve/applications/")
        engine = details["applications"]["engine-tiny"]["deployments"]["engine"]
        return [each["pid"] for each in engine["replicas"] if each["state"] == "RUNNING"]

    stream = endless(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, client)
        time.sleep(0.5)
        assert not waiting.done(), "the only slot is taken"
        [pid] = pids()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as broken:
            list(stream)
        assert broken.value.code == "not_running"
        assert waiting.result().usage.completion_tokens <= 5
    wait_for(lambda: pids() not in ([], [pid]), 60.0)


def test_another_model_is_taken_over_in_place(cluster, refs, client):
    before = ask(client).system_fingerprint
    put(cluster, refs[1])
    assert ask(client).system_fingerprint != before
    put(cluster, refs[0])
    assert ask(client).system_fingerprint == before


def test_no_request_fails_while_the_model_changes(cluster, refs, client):
    seen: list[str] = []
    is_over = threading.Event()

    def press() -> None:
        while not is_over.is_set():
            seen.append(ask(client).system_fingerprint)

    with ThreadPoolExecutor(1) as pool:
        pressing = pool.submit(press)
        try:
            for ref in (refs[1], refs[0]):
                n_before = len(seen)
                put(cluster, ref)
                wait_for(lambda n=n_before: len(seen) > n + 5 or pressing.done(), 20.0)
        finally:
            is_over.set()
        pressing.result()
    assert len(set(seen)) == 2


def test_an_alias_is_followed_without_a_failed_request(cluster, refs, client):
    name, numbers = refs[0].partition("@")[0], [int(ref.partition("@")[2]) for ref in refs]
    write_fact(cluster.home, "set_alias", "model", name, "live", numbers[0])
    args = AppArgs(
        model=f"{name}@live", served_name="tiny", n_slots=1, max_queued=1, max_replicas=1
    )
    serve_model(cluster.info, args, home=cluster.home)
    seen: list[str] = []
    is_over = threading.Event()

    def press() -> None:
        while not is_over.is_set():
            seen.append(ask(client).system_fingerprint)

    with ThreadPoolExecutor(1) as pool:
        pressing = pool.submit(press)
        try:
            wait_for(lambda: len(seen) > 2 or pressing.done(), 20.0)
            write_fact(cluster.home, "set_alias", "model", name, "live", numbers[1])
            wait_for(lambda: len(set(seen)) == 2 or pressing.done(), 30.0)
        finally:
            is_over.set()
        pressing.result()
    assert len(set(seen)) == 2
    put(cluster, refs[0])


def test_no_engine_runs_where_none_is_kept_until_somebody_asks(cluster, refs, client):
    put(cluster, refs[0], min_replicas=0, downscale_delay_s=1.0)
    dashboard = Dashboard.of(cluster.info, cluster.home)

    def n_engines() -> int:
        details = dashboard.request("GET", "/api/serve/applications/")
        engine = details["applications"]["engine-tiny"]["deployments"]["engine"]
        return sum(replica["state"] == "RUNNING" for replica in engine["replicas"])

    wait_for(lambda: n_engines() == 0, 60.0)
    assert httpx.get(f"{cluster.info.api_url}/readyz").is_success
    assert n_engines() == 0, "to ask whether it is ready starts nothing"
    assert ask(client).usage.completion_tokens <= 5
    put(cluster, refs[0])


def test_a_canary_answers_its_share_is_promoted_and_rolled_back_without_a_failed_request(
    cluster, refs, client
):
    put(cluster, refs[0], n_slots=4, max_queued=8, n_threads=1)
    itself = ask(client).system_fingerprint
    seen: list[str] = []
    is_over = threading.Event()

    def press() -> None:
        while not is_over.is_set():
            seen.append(ask(client).system_fingerprint)

    def wait_until(is_true, pressing) -> None:
        wait_for(lambda: is_true() or pressing.done(), 60.0)

    with ThreadPoolExecutor(1) as pool:
        pressing = pool.submit(press)
        try:
            call(client, "PUT", "/deployments/tiny/canary", {"model": refs[1], "weight": 50})
            wait_until(lambda: len(set(seen)) == 2, pressing)
            found = call(client, "GET", "/deployments/tiny")
            assert {replica["application"] for replica in found["replicas"]} == {
                "engine-tiny", "canary-tiny",
            }  # fmt: skip
            wait_until(
                lambda: (
                    len(call(client, "GET", "/deployments/tiny")["replicas"]) == 2
                    and all(
                        "device" in replica
                        for replica in call(client, "GET", "/deployments/tiny")["replicas"]
                    )
                ),
                pressing,
            )
            call(client, "POST", "/deployments/tiny/promote")
            wait_until(lambda: itself not in seen[-20:], pressing)
            wait_until(
                lambda: call(client, "GET", "/deployments/tiny")["status"] == "running", pressing
            )
            call(client, "POST", "/deployments/tiny/rollback", {"revision": found["revision"] - 1})
            wait_until(lambda: set(seen[-20:]) == {itself}, pressing)
        finally:
            is_over.set()
        pressing.result()
    put(cluster, refs[0])


def test_two_deployments_answer_side_by_side_and_one_ends_alone(cluster, refs, client):
    put(cluster, refs[0])
    put(cluster, refs[1], served_name="other", n_threads=1)
    assert [model.id for model in client.models.list()] == ["other", "tiny"]
    options = {"prompt": "the", "max_tokens": 3}
    marks = {
        name: client.completions.create(model=name, **options).system_fingerprint
        for name in ("tiny", "other")
    }
    assert len(set(marks.values())) == 2
    call(client, "DELETE", "/deployments/other")
    wait_for(lambda: [model.id for model in client.models.list()] == ["tiny"], 10.0)
    assert ask(client).system_fingerprint == marks["tiny"]


def test_metrics_tell_of_the_engine(client):
    ask(client)

    def told() -> str:
        key = client.api_key
        url = str(client.base_url).removesuffix("/v1/")
        return httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).text

    wait_for(lambda: 'mulm:generation_tokens_total{model_name="tiny"}' in told(), 10.0)
    assert "mulm:request_success_total{" in told()


def test_more_streams_than_slots_bring_a_second_engine_for_as_long_as_they_last(
    cluster, refs, client
):
    put(cluster, refs[0], max_replicas=2, n_threads=1, downscale_delay_s=2.0)
    dashboard = Dashboard.of(cluster.info, cluster.home)
    is_over = threading.Event()

    def n_engines() -> int:
        details = dashboard.request("GET", "/api/serve/applications/")
        engine = details["applications"]["engine-tiny"]["deployments"]["engine"]
        return sum(replica["state"] == "RUNNING" for replica in engine["replicas"])

    def hold_a_slot() -> None:
        """One stream after another, so that it does not matter how soon each ends."""
        while not is_over.is_set():
            with ask(client, max_tokens=WINDOW - 10, temperature=0, stream=True) as stream:
                for _ in stream:
                    if is_over.is_set():
                        break

    with ThreadPoolExecutor(2) as pool:
        holders = [pool.submit(hold_a_slot) for _ in range(2)]
        try:
            wait_for(lambda: n_engines() == 2 or any(h.done() for h in holders), 120.0)
        finally:
            is_over.set()
        for holder in holders:
            holder.result()
    assert n_engines() == 2
    wait_for(lambda: n_engines() == 1, 120.0)
    put(cluster, refs[0])
    assert ask(client).usage.completion_tokens <= 5


def test_a_deployment_that_cannot_start_says_why(cluster, refs, client):
    with pytest.raises(NotFoundError, match="no model 'nobody@1'"):
        put(cluster, "nobody@1")
    with pytest.raises(JobFailedError, match="device_unavailable"):
        put(cluster, refs[0], served_name="on-a-gpu", device="cuda")
    assert ask(client).usage.completion_tokens <= 5
    call(client, "DELETE", "/deployments/on-a-gpu")


def test_an_evaluation_is_started_and_watched_over_http_alone(cluster, refs, client):
    put(cluster, refs[0])
    url = f"{str(client.base_url).removesuffix('/v1/')}/api/v1/runs"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    with httpx.Client(headers=headers, timeout=60.0, trust_env=False) as http:
        config = {"model": refs[0], "suites": ["blimp"], "limit": 4}
        begun = http.post(url, json={"kind": "evaluate", "config": config})
        assert begun.status_code == 202, begun.text
        run = f"{url}/{begun.json()['id']}"
        seen: list[int] = []
        wait_for(lambda: http.get(f"{run}/events").json()["data"], 60.0)
        with http.stream("GET", f"{run}/events", headers={"accept": "text/event-stream"}) as stream:
            for line in stream.iter_lines():  # the first connection breaks after two events
                seen += [int(line[4:])] if line.startswith("id: ") else []
                if len(seen) == 2:
                    break
        accept = {"accept": "text/event-stream", "last-event-id": str(seen[-1])}
        with http.stream("GET", f"{run}/events", headers=accept) as stream:
            seen += [int(line[4:]) for line in stream.iter_lines() if line.startswith("id: ")]
        assert seen == list(range(1, len(seen) + 1))
        ended = http.get(run).json()
        assert ended["phase"] == "succeeded", ended["error"]
        assert http.post(url, json={"kind": "evaluate", "config": config}).status_code == 200
