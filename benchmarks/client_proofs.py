"""What clients that we did not write make of the service: one proof each, in its own environment.

    PYTHON benchmarks/client_proofs.py NAME < order.json

Run by `benchmarks.clients`, which says where the service listens and what must come out. Imports
nothing of ours. Ends with what was seen as JSON on the last line; an exception is a failed proof.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

Order = dict[str, Any]
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


def by_openai(order: Order) -> Any:
    """Chat, stream, structured output, responses, embeddings, and the classes of errors."""
    import openai

    client = openai.OpenAI(api_key=order["key"], base_url=order["url"] + "/v1", max_retries=0)
    asked: Any = {"model": order["model"], "messages": MESSAGES, "max_tokens": 20, "seed": 1}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    parts = [
        choice.delta.content or ""
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
    ]
    assert "".join(parts) == whole
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"],
              "additionalProperties": False}  # fmt: skip
    form: Any = {"type": "json_schema",
                 "json_schema": {"name": "n", "schema": schema, "strict": True}}  # fmt: skip
    held = client.chat.completions.create(
        model=order["model"],
        messages=MESSAGES,
        response_format=form,
    )
    assert isinstance(json.loads(held.choices[0].message.content or "")["yes"], bool)
    response = client.responses.create(model=order["model"], input="Hello", max_output_tokens=9)
    assert client.responses.retrieve(response.id).output_text == response.output_text
    assert len(client.embeddings.create(model=order["model"], input=["a", "b"]).data) == 2
    for error, change in (
        (openai.NotFoundError, {"model": "nobody"}),
        (openai.BadRequestError, {"temperature": 9}),
        (openai.AuthenticationError, {"extra_headers": {"Authorization": "Bearer no"}}),
    ):
        try:
            client.chat.completions.create(**asked | change)
        except error:
            continue
        raise AssertionError(f"no {error.__name__}")
    return whole


def by_litellm(order: Order) -> Any:
    """A completion and a stream through the proxy's library."""
    import litellm

    asked: Any = {
        "model": "openai/" + order["model"], "messages": MESSAGES, "max_tokens": 20, "seed": 1,
        "api_base": order["url"] + "/v1", "api_key": order["key"],
    }  # fmt: skip
    whole = litellm.completion(**asked).choices[0].message.content
    parts = [c.choices[0].delta.content or "" for c in litellm.completion(**asked, stream=True)]
    assert "".join(parts) == whole
    return whole


def by_langchain(order: Order) -> Any:
    """Invoke, stream, tools, and embeddings."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    @tool  # type: ignore[untyped-decorator]
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    url = order["url"] + "/v1"
    chat: Any = ChatOpenAI(
        model=order["model"], base_url=url, api_key=order["key"], max_tokens=20, seed=1
    )
    whole = chat.invoke("Hello").content
    assert "".join(str(part.content) for part in chat.stream("Hello")) == whole
    bound = ChatOpenAI(model=order["model"], base_url=url, api_key=order["key"])
    called = bound.bind_tools([weather], tool_choice="weather").invoke("Hello")
    assert called.tool_calls[0]["name"] == "weather", called
    vectors = OpenAIEmbeddings(
        model=order["model"], base_url=url, api_key=order["key"],
        check_embedding_ctx_length=False,
    ).embed_documents(["a", "b"])  # fmt: skip
    assert len(vectors) == 2
    return whole


def by_llm(order: Order) -> Any:
    """The `llm` command with a model of its configuration file."""
    folder = os.environ["LLM_USER_PATH"] = order["folder"]
    with open(os.path.join(folder, "extra-openai-models.yaml"), "w") as file:
        json.dump([{"model_id": "ours", "model_name": order["model"],
                    "api_base": order["url"] + "/v1", "api_key_name": "ours"}], file)  # fmt: skip
    with open(os.path.join(folder, "keys.json"), "w") as file:
        json.dump({"ours": order["key"]}, file)
    command = [os.path.join(os.path.dirname(sys.executable), "llm"), "-m", "ours",
               "-o", "max_tokens", "20", "-o", "seed", "1", "Hello"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.removesuffix("\n")


def by_lm_eval(order: Order) -> Any:
    """Log-likelihoods by `local-completions`, answers by `local-chat-completions`."""
    os.environ["OPENAI_API_KEY"] = order["key"]
    from lm_eval.api.instance import Instance
    from lm_eval.models.api_models import JsonChatStr
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    api = LocalCompletionsAPI(
        base_url=order["url"] + "/v1/completions", model=order["model"],
        tokenizer_backend="huggingface", tokenizer=order["tokenizer"], max_length=order["window"],
        batch_size=4,
    )  # fmt: skip
    asked = [
        Instance("loglikelihood", {}, (context, target), number)
        for number, (context, target) in enumerate(order["questions"])
    ]
    scores = [[float(value), bool(best)] for value, best in api.loglikelihood(asked)]
    chat = LocalChatCompletion(
        base_url=order["url"] + "/v1/chat/completions", model=order["model"],
        max_length=order["window"],
    )  # fmt: skip
    how = {"until": ["\n\n"], "max_gen_toks": 20, "temperature": 0}
    message = json.dumps(MESSAGES)

    request = Instance("generate_until", {}, (JsonChatStr(message), how), 0)
    return {"scores": scores, "answer": chat.generate_until([request])[0]}


def by_guidellm(order: Order) -> Any:
    """`guidellm run` with synthetic prompts, streamed chats."""
    return _bench(
        [os.path.join(os.path.dirname(sys.executable), "guidellm"), "run",
         "--backend", "kind=openai_http,target=" + order["url"] + ",model=" + order["model"]
         + ",api_key=" + order["key"],
         "--tokenizer", "kind=huggingface_auto,model=" + order["tokenizer"],
         "--data", "kind=synthetic_text,prompt_tokens=40,output_tokens=20",
         "--profile", "kind=concurrent,streams=4", "--constraint", "kind=max_requests,count=16",
         "--output", "kind=console", "--disable-progress"],
        order, "Completed",
    )  # fmt: skip


def _bench(command: list[str], order: Order, mark: str) -> Any:
    env = os.environ | {"OPENAI_API_KEY": order["key"], "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)  # noqa: S603
    if done.returncode or mark not in done.stdout + done.stderr:
        sys.exit((done.stdout + done.stderr)[-1500:])
    return None


PROOFS: dict[str, Callable[[Order], Any]] = {
    "openai": by_openai, "litellm": by_litellm, "langchain-openai": by_langchain, "llm": by_llm,
    "lm-eval": by_lm_eval, "guidellm": by_guidellm,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(PROOFS[sys.argv[1]](json.load(sys.stdin))))
