from __future__ import annotations

import pytest

from mulm.errors import ConfigError, MulmError, OverloadedError
from mulm.messages import GenerateRequest, Grammar, SamplingParams
from serve_app.engine_client import ModelChangingError
from serve_app.request_codec import decode_error, decode_request, encode_error, encode_request

FULL = GenerateRequest(
    "a",
    (3, 1),
    SamplingParams(
        max_tokens=7,
        temperature=0.1 / 3,
        top_p=0.9,
        top_k=3,
        seed=1 << 63,
        stop_token_ids=(1, 2),
        logit_bias=((4, -0.5), (5, float("inf"))),
        stops=("\n", "\ud800 ☃"),
        logprobs=0,
        grammar=Grammar("choice", '["a"]', "after"),
    ),
    deadline_s=1.25,
    n=2,
    best_of=3,
    adapter="x@1",
    is_embedding=True,
)


@pytest.mark.parametrize("request_", [FULL, GenerateRequest("b", ())])
def test_what_is_read_equals_what_was_written(request_):
    line = encode_request("m", request_)
    assert b"\n" not in line
    assert decode_request(line) == ("m", request_)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'["m",{}]', b'["m",{"sampling":{},"prompt_ids":1}]', b"\xff"]
)
def test_what_is_no_request_is_a_value_error(line):
    with pytest.raises(ValueError):
        decode_request(line)


@pytest.mark.parametrize("kind", [MulmError, ConfigError, OverloadedError, ModelChangingError])
def test_an_error_keeps_its_class_and_all_that_it_says(kind):
    name, found = decode_error(encode_error("a", kind("what\n", hint="do", param="seed", n=2)))
    assert (name, type(found)) == ("a", kind)
    assert (found.message, found.hint, found.details) == ("what\n", "do", {"param": "seed", "n": 2})


def test_an_error_of_another_version_is_an_error_all_the_same():
    assert type(decode_error(b'["a","StrangeError","what","",{}]')[1]) is MulmError
