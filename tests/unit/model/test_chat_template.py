"""Templates from strangers render with little time, memory and text, or are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mulm.chat_format import FORMATS
from mulm.data.tokenizer import Tokenizer
from mulm.errors import DataError
from mulm.model.chat_template import SAMPLE, judge_template, render_template
from mulm.model.hf_import import describe_hf_folder
from mulm.testing import tiny_llama3_tokenizer


@pytest.mark.parametrize(
    ("template", "verdict"),
    [
        (None, "none"),
        ("{{ messages[0]['content'] }}", "other"),
        ([{"name": "default", "template": "{{ bos_token }}"}], "other"),
        ([{"name": ["tool_use"], "template": "{{ bos_token }}"}], "none"),
        (["{{ bos_token }}"], "none"),
        ("{% for m in messages %}{% break %}{% endfor %}", "other"),
        ("{% for", "broken"),
        ("{{ raise_exception('no') }}", "broken"),
        ("{{ messages.__class__.__mro__ }}", "broken"),
        ("{{ 'x' * 9000000000 }}", "broken"),
    ],
)
def test_a_foreign_template_is_judged(folder: Path, template: object, verdict: str) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    assert describe_hf_folder(folder).template == verdict


LLAMA3_SPELLED = (
    "{% for message in messages %}{% set text = '<|start_header_id|>' + message['role']"
    " + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
"""What the header format's makers say, with the beginning inside and their own way to end."""


def test_a_template_belongs_to_its_tokenizer(tokenizer: Tokenizer) -> None:
    llama3 = tiny_llama3_tokenizer()
    for form, mine in zip(FORMATS, (tokenizer, llama3), strict=True):
        for other in (tokenizer, llama3):
            assert judge_template(form.template, other) == ("same" if other is mine else "other")
    assert judge_template(LLAMA3_SPELLED, llama3) == "same"


def test_a_template_is_judged_with_a_system_message_too(tokenizer: Tokenizer) -> None:
    ours = tokenizer.chat_format.template
    unheard = ours.replace("in messages %}", "in messages if message['role'] != 'system' %}")
    refused = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert unheard != ours
    assert judge_template(ours, tokenizer) == "same"
    assert judge_template(unheard, tokenizer) == "other"
    assert judge_template(refused + ours, tokenizer) == "broken"


@pytest.mark.slow
def test_a_template_that_never_ends_is_ended(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    monkeypatch.setattr("mulm.model.chat_template._TIMEOUT_S", 0.7)
    assert judge_template(loop, tokenizer) == "broken"


@pytest.mark.slow
@pytest.mark.parametrize("template", ["{{ 'x' * 1100000 }}", "{{ 'x' * 20000000 }}"])
def test_a_template_that_makes_too_much_text_is_broken(tokenizer: Tokenizer, template: str) -> None:
    """These sizes fit into the memory of the process that renders."""
    with pytest.raises(DataError, match="it makes too much text"):
        render_template(template, SAMPLE, tokenizer)
    assert judge_template("{{ 'x' * 1000000 }}", tokenizer) == "other"


def test_what_a_template_raises_is_clipped(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="TemplateError: xxx") as error:
        render_template("{{ raise_exception('x' * 20000000) }}", SAMPLE, tokenizer)
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('touch MARK') }}",
        "{{ lipsum.__globals__['os'].system('touch MARK') }}",
        "{{ messages.append.__self__.__class__.__base__.__subclasses__() }}",
        "{% import 'os' as os %}{{ os.system('touch MARK') }}",
        "{% include '/etc/passwd' %}",
        "{{ ('%(x)s' | attr('format'))(x=messages.__class__) }}",
        "{{ messages.append(1) }}",
        "{{ self._TemplateReference__context.environment }}",
    ],
)
def test_a_template_that_tries_to_execute_is_harmless(
    tokenizer: Tokenizer, tmp_path: Path, template: str
) -> None:
    mark = tmp_path / "mark"
    assert judge_template(template.replace("MARK", str(mark)), tokenizer) in ("broken", "other")
    assert not mark.exists()
