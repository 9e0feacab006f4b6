"""The card of a model in the store: its own if it came with one, else one that tells its lineage.

Called at export and by the control API. Light floor: no torch. Invariant: what of its lineage is
not in the store any more is told by its id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mulm.config import parse_config
from mulm.data.tokenizer import Tokenizer
from mulm.errors import CorruptError, NotFoundError
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.model_card import CARD, model_card
from mulm.store import Store


def stored_card(store: Store, ref: str, manifest: Manifest) -> bytes:
    """Markdown, in UTF-8.

    Raises:
        CorruptError: a file of the model is damaged.
    """
    if any(blob.name == CARD for blob in manifest.blobs):
        return store.read(manifest.blob(CARD))
    config = parse_config(MicroLMConfig, json.loads(store.read(manifest.blob("config.json"))))
    form = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json"))).chat_format
    return model_card(ref, manifest, config, _ancestors(store, manifest), form).encode()


def _ancestors(store: Store, manifest: Manifest) -> Mapping[str, Manifest]:
    found = {}
    for role, parent_id in manifest.parents.items():
        try:
            found[role] = store.load(parent_id)
        except (NotFoundError, CorruptError):
            continue  # a run, or a version that is not here or damaged: the card has its id
    return found
