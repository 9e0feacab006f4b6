from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import openai
import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.messages import GenerateRequest, SamplingParams
from serve_app.ingress import make_app
from serve_app.service import Service

IDS = [40, 41, 42]


def create(app, client, **fields):
    options = {"model": "tiny", "input": IDS} | fields
    return asyncio.run(client(app).embeddings.create(**options))


def cosine(one, other) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("form", ["float", "base64"])
def test_it_is_the_mean_of_hidden_states_at_length_1(app, client, form):
    reply = create(app, client, encoding_format=form)
    request = GenerateRequest("a", tuple(IDS), SamplingParams(max_tokens=0), is_embedding=True)
    engine = Engine(FakeModel(FakeConfig(vocab_size=320, max_seq_len=200)), n_slots=1)
    mean = engine.generate([request])["a"].embedding
    length = math.sqrt(cosine(mean, mean))
    vector = reply.data[0].embedding
    if form == "base64":
        import base64
        import struct

        content = base64.b64decode(vector)
        vector = struct.unpack(f"<{len(content) // 4}f", content)
    assert vector == pytest.approx([x / length for x in mean], rel=1e-6)
    assert reply.usage.prompt_tokens == 3


def test_the_official_client_reads_its_default_form(app, client):
    vector = create(app, client).data[0].embedding
    assert cosine(vector, vector) == pytest.approx(1.0, rel=1e-6)


def test_many_inputs_keep_their_order_and_fewer_dimensions_their_length(app, client):
    texts = [f"the fox {n}" for n in range(40)]
    many = create(app, client, input=texts, dimensions=2)
    assert [item.index for item in many.data] == list(range(40))
    alone = create(app, client, input=texts[7], dimensions=2).data[0].embedding
    assert many.data[7].embedding == pytest.approx(alone)
    assert len(alone) == 2
    assert cosine(alone, alone) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 257}, "input"),
        ({"input": [1] * 201}, "input"),
        ({"input": [400]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_cannot_be_is_refused_by_name(app, client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        create(app, client, **fields)
    assert refused.value.param.startswith(param)


def test_all_of_a_request_has_one_deadline(scripted, served, keys, client):
    scripted.never_ends = True
    app = make_app(Service.of(replace(served, request_timeout_s=0.2)), keys)
    with pytest.raises(openai.APIStatusError) as late:
        create(app, client, input=[IDS] * 40)
    assert late.value.status_code == 504
    assert len(scripted.requests) < 40, "those that wait are not begun any more"
