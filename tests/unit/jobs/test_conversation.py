from __future__ import annotations

import json

import pytest

from jobs.conversation import COMMANDS, ChatOptions, Conversation
from mulm.errors import ConfigError, NotFoundError, UnknownNameError


@pytest.fixture
def talk() -> Conversation:
    made = Conversation(ChatOptions("demo", seed=3))
    made.add("one", "1")
    made.add("two", "2")
    return made


def said(talk: Conversation) -> list[str]:
    return [message.content for message in talk.messages()]


def test_the_system_speaks_first(talk):
    talk.obey("/system be kind")
    assert said(talk) == ["be kind", "one", "1", "two", "2"]
    assert [m.role for m in talk.messages("three")][-1] == "user"
    talk.obey("/system")
    assert said(talk)[0] == "one"


def test_undo_reset_and_retry(talk):
    talk.obey("/undo")
    assert said(talk) == ["one", "1"]
    talk.obey("/retry")
    assert (talk.pending, talk.turns) == ("one", [])
    assert talk.options.seed == 4, "the same seed would give the same answer"
    for command in ("/undo", "/retry"):
        with pytest.raises(ConfigError, match="nothing was said"):
            talk.obey(command)
    talk.add("a", "b")
    talk.obey("/reset")
    assert talk.turns == []


def test_what_is_saved_is_loaded(talk, tmp_path):
    path = tmp_path / "talk.json"
    talk.obey("/system be kind")
    talk.obey(f"/save {path}")
    other = Conversation(ChatOptions("demo"))
    other.obey(f"/load {path}")
    assert said(other) == said(talk)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"messages": 3}', '{"messages": [{"role": "assistant", "content": ""}]}']
)
def test_other_files_are_refused_and_change_nothing(talk, tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_text(content)
    before = said(talk)
    with pytest.raises(ConfigError):
        talk.obey(f"/load {path}")
    with pytest.raises(NotFoundError):
        talk.obey(f"/load {path}.not")
    with pytest.raises(ConfigError, match="which file"):
        talk.obey("/save")
    with pytest.raises(ConfigError):
        talk.obey(f"/save {path}/below")
    assert said(talk) == before


def test_options_are_set_by_name(talk):
    talk.obey("/set temperature 0.5")
    talk.obey("/set max_tokens=7")
    talk.obey("/set seed none")
    assert talk.options == ChatOptions("demo", 7, 0.5, None)
    with pytest.raises(UnknownNameError) as caught:
        talk.obey("/set temprature 1")
    assert "temperature" in caught.value.hint
    for bad in ("/set temperature hot", "/set max_tokens none"):
        with pytest.raises(ConfigError):
            talk.obey(bad)
    assert "temperature = 0.5" in talk.obey("/stats")


def test_help_has_every_command_and_an_unknown_one_names_the_nearest(talk):
    assert all(f"/{name}" in talk.obey("/help") for name in COMMANDS)
    with pytest.raises(UnknownNameError) as caught:
        talk.obey("/sytem x")
    assert "system" in caught.value.hint


@pytest.mark.parametrize("command", ["/exit", "/quit"])
def test_it_ends(talk, command):
    talk.obey(command)
    assert talk.has_ended


def test_what_is_saved_is_json_that_others_read(talk, tmp_path):
    talk.obey(f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][0] == {
        "role": "user",
        "content": "one",
    }
