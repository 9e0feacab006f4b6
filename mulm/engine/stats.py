"""What an engine does and has done, as numbers for metrics and for whoever scales engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine does and has done; counts since it was made."""

    n_running: int
    n_waiting: int
    waiting_tokens: int
    n_pages: int
    n_free_pages: int
    n_preemptions: int
    """How often a sequence lost its pages because they ran out."""
    prefix_tokens: int
    """Of prompts that were looked up, each once."""
    prefix_hits: int
    """Those of them that were found in pages."""
    prompt_tokens: int
    generated_tokens: int
    proposed_tokens: int = 0
    accepted_tokens: int = 0
