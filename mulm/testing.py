"""Doubles that ship with the product: a tiny model and a tiny dataset, made in milliseconds.

Used by our tests and by those of extensions. They are the real classes with small numbers,
so what passes with them is real behaviour.
"""

from __future__ import annotations

import json

import torch

from mulm import __version__
from mulm.chat_format import LLAMA3
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt, adapter_of, is_adapter, merged
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model, store_model
from mulm.model.weights import tensor_bytes
from mulm.store import Store
from mulm.train.settled import SettledOptimizer

TINY = MicroLMConfig(
    vocab_size=64,
    d_model=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    d_head=8,
    d_ff=64,
    max_seq_len=64,
)
TINY_SHAPE = {name: getattr(TINY, name) for name in ("d_model", "n_layers", "n_heads")} | {
    name: getattr(TINY, name) for name in ("n_kv_heads", "d_head", "d_ff", "max_seq_len")
}
"""`TrainConfig.model` of the tiny model."""


def tiny_model(seed: int = 0, config: MicroLMConfig = TINY) -> MicroLM:
    """A model in which every weight is random, also those that training starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    model = MicroLM(config).init_weights(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return model.eval()


def settled_optimizer(**changes: object) -> SettledOptimizer:
    """Muon at rates that suit a tiny model."""
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.004, "weight_decay": 0.0}
    return SettledOptimizer.model_validate(rates | changes)


def tiny_tokenizer() -> Tokenizer:
    """A real tokenizer of 320 ids."""
    text = "user assistant system tool\nHello there, how are you? The wizard isn't here.\n"
    return train_tokenizer([text * 9], 320)


def tiny_llama3_tokenizer() -> Tokenizer:
    """The same words as Llama 3 arranges them: its special tokens come last, and begin a text."""
    values = json.loads(tiny_tokenizer().to_bytes())
    first = len(values["added_tokens"])
    words = [word for word, i in values["model"]["vocab"].items() if i >= first]
    values["model"] |= {"vocab": {w: i for i, w in enumerate(words)}, "ignore_merges": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    values["added_tokens"] = [
        {"id": len(words) + i, "content": name, "special": True, **flags}
        for i, name in enumerate((*LLAMA3.required, *LLAMA3.other_ends))
    ]
    begin = LLAMA3.document_begin
    single = [
        {"SpecialToken": {"id": begin, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {begin: {"id": begin, "ids": [len(words)], "tokens": [begin]}},
    }
    return Tokenizer.from_bytes(json.dumps(values).encode())


def tiny_stored_model(
    store: Store, tokenizer: Tokenizer, *, dtype: torch.dtype = torch.float32, **changes: object
) -> Manifest:
    """A version of a random model whose ids are those of `tokenizer`.

    Its weights are large enough that the next token depends on the text and not on rounding.
    `changes` are fields of its config.
    """
    values = TINY.model_dump() | {"vocab_size": tokenizer.vocab_size} | changes
    model = tiny_model(config=MicroLMConfig.model_validate(values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 if parameter.ndim == 2 else 1.0)
    return store_model(
        store, model.to(dtype), tokenizer.to_bytes(), tokenizer.fingerprint,
        config={"name": "tiny"}, parents={}, licences=("CC0-1.0",),
    )  # fmt: skip


def tiny_stored_adapter(
    store: Store, base: Manifest, seed: int = 1, matrices: tuple[str, ...] = ("q", "v", "down")
) -> Manifest:
    """A version as training with `lora` leaves it, whose adapter changes what a model says."""
    generator = torch.Generator().manual_seed(seed)
    model = adapt(
        load_model(store, base), rank=3, scale=2.0, matrices=matrices, generator=generator
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(0.0, 0.5, generator=generator)
    return store_model(
        store, merged(model), store.read(base.blob("tokenizer.json")),
        base.tokenizer_fingerprint or "", config={"name": f"adapted {seed}"},
        parents={"init_from": base.id}, adapter=adapter_of(model),
    )  # fmt: skip


def tiny_dataset(
    store: Store,
    n_train: int = 2000,
    n_validation: int = 150,
    *,
    vocab_size: int = 64,
    tokenizer_fingerprint: str = "0" * 24,
) -> Manifest:
    """A dataset version of a learnable pattern: each token is the last one plus 1 or plus 3.

    Its tokenizer file is a stand-in that only says so.
    """
    generator = torch.Generator().manual_seed(7)
    hops = 1 + 2 * torch.randint(0, 2, (n_train + n_validation,), generator=generator)
    tokens = hops.cumsum(0) % vocab_size
    manifest = Manifest(
        kind="dataset",
        code_version=__version__,
        config={"name": "tiny"},
        tokenizer_fingerprint=tokenizer_fingerprint,
        counts={
            "train_tokens": n_train,
            "validation_tokens": n_validation,
            "train_bytes": n_train,
            "validation_bytes": n_validation,
            "vocab_size": vocab_size,
        },
        blobs=(
            store.put("train-00000.bin", _uint16_bytes(tokens[:n_train]), n_train),
            store.put("validation-00000.bin", _uint16_bytes(tokens[n_train:]), n_validation),
            store.put("tokenizer.json", json.dumps({"stand-in": tokenizer_fingerprint}).encode()),
            store.put("validation.txt", b"ab" * (n_validation // 2)),
        ),
    )
    store.save(manifest)
    return manifest


def _uint16_bytes(tokens: torch.Tensor) -> bytes:
    return tensor_bytes(tokens.to(torch.uint16))
