"""An example of the body of every operation that takes one, for the description of the API.

Read by `serve_app.openapi`. Invariant: each is a body that its operation takes; a test holds them
to the schemas and finds operations without one.
"""

from __future__ import annotations

from typing import Any

_MESSAGES = [{"role": "user", "content": "Who are you?"}]
_TRAIN = {"name": "scholar", "dataset": "books", "preset": "nano", "steps": 2000}

EXAMPLES: dict[tuple[str, str], Any] = {
    ("post", "/api/v1/datasets"): {
        "name": "notes",
        "sources": [{"file": "file_0123456789ab", "licence": "my own"}],
        "tokenizer": {"vocab_size": 8192},
    },
    ("post", "/api/v1/deployments"): {"model": "scholar@live", "served_name": "assistant"},
    ("patch", "/api/v1/deployments/{name}"): {"max_replicas": 4},
    ("put", "/api/v1/deployments/{name}"): {"model": "scholar@live", "n_slots": 64},
    ("put", "/api/v1/deployments/{name}/canary"): {"model": "scholar@5", "weight": 10},
    ("post", "/api/v1/deployments/{name}/rollback"): {"revision": 3},
    ("post", "/api/v1/evaluations"): {"model": "scholar@5", "suites": ["bits_per_byte", "blimp"]},
    ("post", "/api/v1/feedback"): {
        "model": "assistant",
        "messages": _MESSAGES,
        "answer": "A friend.",
        "verdict": "up",
        "comment": "short and kind",
    },
    ("post", "/api/v1/keys"): {"name": "a friend", "scope": "inference"},
    ("patch", "/api/v1/keys/{key_id}"): {"name": "a good friend"},
    ("post", "/api/v1/keys/{key_id}/rotate"): {"overlap_s": 3600},
    ("post", "/api/v1/models/{name}/aliases/{alias}/promote"): {"version": 5},
    ("post", "/api/v1/runs"): {"kind": "train", "config": _TRAIN},
    ("post", "/api/v1/runs/estimate"): {"config": _TRAIN},
    ("post", "/api/v1/runs/{run_id}/fork"): {"config": {"seed": 2}},
    ("post", "/api/v1/runs/{run_id}/resume"): {"set": ["workers=1"]},
    ("post", "/api/v1/tokenizers"): {"name": "notes-16k", "dataset": "notes", "vocab_size": 16384},
    ("post", "/api/v1/tokenizers/{ref}/decode"): {"ids": [[72, 101, 108]]},
    ("post", "/api/v1/tokenizers/{ref}/encode"): {"texts": ["It was a dark night."]},
    ("put", "/api/v1/{kinds}/{name}/aliases/{alias}"): {"version": 4},
    ("post", "/v1/batches"): {
        "input_file_id": "file_0123456789ab",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    },
    ("post", "/v1/chat/completions"): {"model": "assistant", "messages": _MESSAGES, "seed": 1},
    ("post", "/v1/completions"): {"model": "assistant", "prompt": "Once", "max_tokens": 20},
    ("post", "/v1/detokenize"): {"model": "assistant", "tokens": [72, 101, 108]},
    ("post", "/v1/embeddings"): {"model": "assistant", "input": ["a text", "another"]},
    ("post", "/v1/fine_tuning/jobs"): {
        "model": "scholar@5",
        "training_file": "file_0123456789ab",
        "suffix": "polite",
    },
    ("post", "/v1/responses"): {"model": "assistant", "input": "Who are you?"},
    ("post", "/v1/tokenize"): {"model": "assistant", "prompt": "Once upon a time"},
}
