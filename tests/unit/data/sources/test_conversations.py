"""Every shape of conversation, in small; and the real samples where they are."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from mulm.chat import Message
from mulm.data.sources.base import RawDocument
from mulm.data.sources.jsonl import JsonSource
from mulm.data.sources.rows import RowReader
from tests.unit.data.sources.conftest import ReadAll

HI, HO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
RULES = {"role": "system", "content": "Be brief."}
SAMPLES = os.environ.get("MULM_CHAT_SAMPLES", "")
"""A folder with the demonstration files of well-known fine-tuning tools."""


def document(row: object, **columns: str) -> RawDocument:
    return RowReader(columns).document(row)


def stored(row: object, **columns: str) -> Any:
    found = document(row, **columns)
    assert found.reason == ""
    return json.loads(found.messages)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [HI, HO]}, [HI, HO]),
        ({"messages": [RULES, HI, HO], "text": "other", "conversations": None}, [RULES, HI, HO]),
        ({"messages": [HI, HO], "system": "Be brief."}, [RULES, HI, HO]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                          {"role": "assistant", "content": [{"type": "text", "value": "Ho"}]}]},
            [HI, HO],
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
         [HI, HO]),
        ({"conversations": [{"from": "human", "value": "Hi", "role": None, "content": None},
                            {"from": "gpt", "value": "Ho"}], "system": ""}, [HI, HO]),
        ({"instruction": "Hi", "input": "", "output": "Ho"}, [HI, HO]),
        ({"instruction": "Hi", "output": "Ho", "history": [["a", "b"]]},
         [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, HI, HO]),
        ({"instruction": "Hi", "input": "there", "output": "Ho"},
         [{"role": "user", "content": "Hi\n\nthere"}, HO]),
    ],
)  # fmt: skip
def test_shapes(row: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert stored(row) == expected
    TypeAdapter(list[Message]).validate_python(expected)


def test_columns_of_other_names() -> None:
    assert stored({"question": "Hi", "answer": "Ho"}, instruction="question", output="answer") == [
        HI, HO,
    ]  # fmt: skip
    assert stored({"dialogue": [HI, HO]}, messages="dialogue") == [HI, HO]
    assert document({"messages": [HI, HO], "body": "x"}, text="body").text == "x"


def test_what_a_person_reads() -> None:
    assert document({"messages": [HI, HO]}).text == "user: Hi\n\nassistant: Ho"


def test_tools() -> None:
    calls = [
        {"from": "human", "value": "Add."},
        {"from": "function_call", "value": '{"name": "f"}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "It is 3."},
    ]
    found = stored({"conversations": calls, "tools": '[{"name": "f"}]', "system": "Be brief."})
    assert [turn["role"] for turn in found] == ["system", "user", "assistant", "tool", "assistant"]
    assert found[0]["content"] == 'Be brief.\n\nTools:\n[{"name": "f"}]'
    called = {"role": "assistant", "content": None,
              "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}  # fmt: skip
    found = stored({"messages": [HI, called, {"role": "tool", "content": "1"}]})
    assert found[1] == {"role": "assistant", "content": '{"name": "f", "arguments": {"a": 1}}'}


def test_reasoning_is_kept_apart() -> None:
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "Ho"}]
    found = stored({"messages": [HI, {"role": "assistant", "content": parts}]})
    assert found[1]["content"] == "<think>\nhm\n</think>\n\nHo"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Ho", "rejected": "No"},
        {"prompt": [HI], "chosen": "Ho", "rejected": "No"},
        {"prompt": "Hi", "chosen": [HO], "rejected": [{"role": "assistant", "content": "No"}]},
        {"prompt": "Hi", "chosen": [HI, HO], "rejected": [HI, HO | {"content": "No"}]},
        {"chosen": [HI, HO], "rejected": [HI, HO | {"content": "No"}]},
        {"conversations": [{"from": "human", "value": "Hi"}],
         "chosen": {"from": "gpt", "value": "Ho"}, "rejected": {"from": "gpt", "value": "No"}},
        {"instruction": "Hi", "chosen": "Ho", "rejected": "No"},
    ],
)  # fmt: skip
def test_preference_pairs(row: dict[str, Any]) -> None:
    pair = {"chosen": [HI, HO], "rejected": [HI, HO | {"content": "No"}]}
    assert stored(row) == pair
    assert document(row).text == "user: Hi\n\nassistant: Ho"
    assert stored(row | {"system": "Be brief."}) == {k: [RULES, *v] for k, v in pair.items()}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "Hi"}, "bad_messages"),
        ({"messages": ["Hi"]}, "bad_messages"),
        ({"messages": [{"role": "user"}]}, "bad_messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "bad_messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "unknown_role"),
        ({"messages": [{"role": ["user"], "content": "Hi"}]}, "unknown_role"),
        ({"messages": [HI]}, "no_answer"),
        ({"messages": []}, "no_answer"),
        ({"messages": [HI, HO], "label": False}, "marked_as_bad"),
        ({"messages": [HI, HO | {"content": [{"type": "image_url"}]}]}, "not_text"),
        ({"messages": [HI, HO | {"tool_calls": [{"arguments": "{"}]}]}, "bad_messages"),
        ({"messages": [HI, HO | {"content": "lone \ud800"}]}, "invalid_utf8"),
        ({"instruction": "Hi", "output": None}, "bad_messages"),
        ({"instruction": "Hi", "output": "Ho", "history": ["a"]}, "bad_messages"),
        ({"prompt": "Hi", "chosen": "Ho", "rejected": "Ho"}, "equal_pair"),
        ({"prompt": "Hi", "chosen": "Ho", "rejected": None}, "bad_messages"),
        ({"chosen": "Ho", "rejected": "No"}, "no_prompt"),
    ],
)  # fmt: skip
def test_bad_conversations(row: dict[str, Any], reason: str) -> None:
    found = document(row)
    assert (found.reason, found.messages) == (reason, "")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("dpo_en_demo.json", {"": 300}),
        ("glaive_toolcall_en_demo.json", {"": 300}),
        ("identity.json", {"": 91}),
        ("kto_en_demo.json", {"": 150, "marked_as_bad": 150}),
        ("reason_tool_use_demo_50.jsonl", {"": 50}),
        ("self_instruct_seed_tasks.jsonl", {"no_text": 175}),
        ("v1_sft_demo.jsonl", {"": 500}),
    ],
)
def test_real_samples(read_all: ReadAll, name: str, counts: dict[str, int]) -> None:
    if not SAMPLES:
        pytest.skip("MULM_CHAT_SAMPLES names no folder with them")
    documents = read_all(JsonSource(), name, (Path(SAMPLES) / name).read_bytes())
    assert Counter(document.reason for document in documents) == counts
