"""Grammars ready to hold answers: compiled once, bounded in size, time and memory.

Made by whoever makes an engine, which asks for a constraint with each request that has a grammar.
Built on llguidance (MIT), which needs no torch; without it a grammar is refused and all else works.
Invariants: whatever text comes, it is compiled or refused within about 100 ms, outside the
interpreter's lock and in few threads; what was compiled and is asked for again costs microseconds.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from mulm.data.tokenizer import Tokenizer
from mulm.engine.grammar_constraint import GrammarConstraint
from mulm.engine.grammar_source import source_of
from mulm.engine.grammar_vocabulary import GrammarVocabulary
from mulm.errors import ConfigError, OverloadedError
from mulm.messages import Grammar

_N_CACHED = 16
_MAX_USES = 256
"""A compiled grammar's lexer grows with the answers that it has seen: then a fresh one is made."""
_N_THREADS = 2
_DEADLINE_S = 2.0
_STACK_BYTES = 64 << 20
"""Rules are followed by recursion in native code; other systems give a thread 512 kB."""
_LIMITS = {
    "max_items_in_row": 10_000,
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 25_000,
    "max_lexer_states": 16_384,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
_ERROR_CHARACTERS = 300


class Grammars:
    """Compiles grammars for one tokenizer and keeps the newest; safe in any thread.

    Raises:
        ConfigError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._library = _library()
        self._vocabulary = GrammarVocabulary(tokenizer)
        self._limits = self._library.LLParserLimits(**_LIMITS)
        self._compiled: OrderedDict[Grammar, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._at_work = threading.Semaphore(_N_THREADS)

    def prepare(self, grammar: Grammar) -> None:
        """Compile it now, so that `constraint` is quick; for a thread that may wait.

        Raises:
            ConfigError: it is no grammar, too large, or cannot be held; `param` is "grammar".
            OverloadedError: too many are being compiled.
        """
        self._matcher(grammar, _MAX_USES)

    def constraint(self, grammar: Grammar, stop_token_ids: Sequence[int] = ()) -> GrammarConstraint:
        """What holds one answer to `grammar`; it may end with one of the tokens given.

        Raises:
            ConfigError, OverloadedError: as `prepare`.
        """
        matcher = self._matcher(grammar, math.inf)  # to make it anew is for a thread that may wait
        return GrammarConstraint(matcher, self._vocabulary, stop_token_ids)

    def _matcher(self, grammar: Grammar, max_uses: float) -> Any:
        """A matcher at the beginning, that nobody else holds."""
        with self._lock:
            known, n_uses = self._compiled.get(grammar, (None, 0))
            if known is not None and n_uses < max_uses:
                fresh = known.deep_copy()
                if not _has_error(fresh):
                    self._keep(grammar, known, n_uses + 1)
                    return fresh
        made = self._compile(grammar)
        with self._lock:
            self._keep(grammar, made, 1)
            return made.deep_copy()

    def _keep(self, grammar: Grammar, made: Any, n_uses: int) -> None:
        self._compiled[grammar] = (made, n_uses)
        self._compiled.move_to_end(grammar)
        while len(self._compiled) > _N_CACHED:
            self._compiled.popitem(last=False)

    def _compile(self, grammar: Grammar) -> Any:
        """In a thread of its own, with room for recursion and a deadline."""
        if not self._at_work.acquire(timeout=_DEADLINE_S):
            raise OverloadedError("other grammars are being compiled", hint="try again later")
        made: Future[Any] = Future()

        def run() -> None:
            try:
                made.set_result(self._compile_here(grammar))
            except BaseException as error:  # noqa: BLE001 - handed to who waits
                made.set_exception(error)
            finally:
                self._at_work.release()

        _start_with_stack(threading.Thread(target=run, name="grammar", daemon=True))
        try:
            return made.result(_DEADLINE_S)
        except TimeoutError:
            raise _refuse("takes too long to compile") from None

    def _compile_here(self, grammar: Grammar) -> Any:
        source = source_of(grammar)
        matcher = self._library.LLMatcher(
            self._vocabulary.library_tokenizer, source, log_level=0, limits=self._limits
        )
        if matcher.is_error():
            raise _refuse(f"cannot be held: {_readable(matcher.get_error())}")
        # The first mask finds what has no answer at all, or too many at once; the second what has
        # filled the lexer, which copies share, so that no answer could follow the first.
        for _ in range(2):
            trial = GrammarConstraint(matcher.deep_copy(), self._vocabulary, ())
            self._vocabulary.try_mask(trial)
            if trial.is_broken:
                raise _refuse(f"has no answer, or too many at once: {_readable(trial.error)}")
        return matcher


def is_installed() -> bool:
    """Whether grammars can be held on this machine."""
    try:
        _library()
    except ConfigError:
        return False
    return True


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ConfigError(
            "constrained answers need the package llguidance",
            hint="pip install llguidance",
            param="grammar",
        ) from None
    return llguidance


def _has_error(matcher: Any) -> bool:
    """Whether it is broken already; copies share a lexer that another answer may have filled."""
    if not matcher.is_error():
        matcher.compute_bitmask()
    return bool(matcher.is_error())


def _readable(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = "; ".join(line for line in lines if not line.startswith("<"))
    return text if len(text) <= _ERROR_CHARACTERS else text[:_ERROR_CHARACTERS] + " ..."


def _refuse(what: str) -> ConfigError:
    return ConfigError(
        f"the grammar {what}", hint="change or leave out what is named", param="grammar"
    )


def _start_with_stack(thread: threading.Thread) -> None:
    """Start it with a stack of its own size; a thread that another starts just now gets it too."""
    before = threading.stack_size(_STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
