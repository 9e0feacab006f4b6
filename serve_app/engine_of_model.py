"""From an opened model to an engine of it: slots, pages, who guesses, and what takes over later.

Called by the engine host. Invariant: keys and values take no more memory than the settings give,
but one whole window is always held.
"""

from __future__ import annotations

import asyncio
import logging

from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.graph_cuda import recorder_for
from mulm.engine.pages import pages_for
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Speculation
from mulm.engine.stats import EngineStats
from mulm.errors import MulmError
from mulm.model.batch import PAGE_TOKENS, LanguageModel, RowModel
from serve_app.engine_thread import EngineThread
from serve_app.opened_model import TORCH_THREADS_BESIDE_KERNELS, OpenedModel
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

PLACES_PER_SLOT = 2
"""A finished sequence finds its successor in the engine's own line."""

_DRAFT_SHARE = 8
"""A draft is smaller than its model by about as much."""


def make_engine(opened: OpenedModel, args: AppArgs) -> Engine:
    """An engine with as many slots and pages as `args` say.

    Raises:
        ConfigError: answers cannot be the same bits here, or the draft has another vocabulary.
    """
    window = min(
        args.max_seq_len or opened.model.config.max_seq_len, opened.model.config.max_seq_len
    )
    recorder = recorder_for(opened.model) if args.cuda_graphs else None
    has_rows = args.batch_invariant or recorder is not None
    n_spare = int(has_rows and isinstance(opened.model, RowModel))
    return Engine(
        opened.model,
        args.n_slots,
        args.max_seq_len,
        # The ingress and Serve hold back what exceeds the places; the line here is never longer.
        max_waiting=2 * PLACES_PER_SLOT * args.n_slots,
        speculation=speculation_of(opened, args),
        n_pages=n_pages(args, pages_for(window + 1), opened.model.page_bytes(), n_spare),
        tokenizer=opened.tokenizer,
        make_constraint=opened.make_constraint,
        batch_invariant=args.batch_invariant,
        recorder=recorder,
    )


def speculation_of(opened: OpenedModel, args: AppArgs) -> Speculation | None:
    """Who guesses: the draft where there is one, else the text itself where guesses are asked for.

    Raises:
        ConfigError: the draft has another vocabulary.
    """
    if opened.draft is not None:
        return drafted(opened.draft, args)
    return Speculation(PromptLookup(), args.n_guesses) if args.n_guesses else None


def drafted(draft: LanguageModel, args: AppArgs) -> Speculation:
    """Guesses of a draft, whose keys and values take an eighth of the model's memory at most."""
    proposer = DraftModel(draft, args.kv_cache_bytes // _DRAFT_SHARE)
    return Speculation(proposer, args.n_guesses) if args.n_guesses else Speculation(proposer)


def pressure(
    stats: EngineStats, n_slots: int, n_outside: int = 0, tokens_outside: int = 0
) -> float:
    """How many engines like this one its work would fill: by slots, or by pages if they run out.

    What waits outside for a place counts as what waits here. Waiting tokens count with the pages
    that they will need.
    """
    slots = (stats.n_running + stats.n_waiting + n_outside) / n_slots
    n_needed = (stats.waiting_tokens + tokens_outside) / PAGE_TOKENS
    return max(slots, (stats.n_pages - stats.n_free_pages + n_needed) / stats.n_pages)


def n_pages(args: AppArgs, per_window: int, page_bytes: int, n_spare: int = 0) -> int:
    """Pages of keys and values: what the memory given holds, a whole window at least.

    `n_spare` are those that the engine takes beside them, for rows that pad a step.
    """
    affordable = args.kv_cache_bytes // page_bytes - n_spare
    return max(per_window, min(args.n_slots * per_window, affordable))


async def speed_up(thread: EngineThread, opened: OpenedModel, args: AppArgs) -> None:
    """Have the kernels take over when they are compiled; without them it goes on as it is."""
    try:
        if opened.make_faster is not None:
            faster = await asyncio.to_thread(opened.make_faster)
            thread.swap(faster, TORCH_THREADS_BESIDE_KERNELS)
        if opened.make_draft_faster is not None:
            draft = await asyncio.to_thread(opened.make_draft_faster)
            thread.speculate(drafted(draft, args))
    except (MulmError, OSError, MemoryError) as error:
        # As when the weights, which are read again, are not there any more.
        _log.warning("kernels failed, plain torch goes on reason=%s", error)
