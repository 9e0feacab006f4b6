"""Grammars ready to hold answers: compiled once, bounded in size, time and memory.

Made by whoever makes an engine, which asks for a constraint with each request that has a grammar.
Built on llguidance (MIT), which needs no torch; without it a grammar is refused and all else works.
Invariants: whatever text comes, it is compiled or refused within about 100 ms, outside the
interpreter's lock and in few threads; the engine's thread waits for none of it, so a grammar holds
up no stream; what was compiled and is asked for again costs microseconds.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from mulm.data.tokenizer import Tokenizer
from mulm.engine.grammar_constraint import GrammarConstraint
from mulm.engine.grammar_source import source_of
from mulm.engine.grammar_vocabulary import GrammarVocabulary
from mulm.errors import ConfigError, OverloadedError
from mulm.messages import Grammar

_N_CACHED = 16
_N_AWAITED, _AWAITED_S = 64, 5.0
"""More are kept for so long where requests have prepared them, until the engine asks for them."""
_MAX_USES = 256
"""A compiled grammar's lexer grows with the answers that it has seen: then a fresh one is made."""
_N_THREADS = 2
_DEADLINE_S = 2.0
_STACK_BYTES = 64 << 20
"""Rules are followed by recursion in native code; other systems give a thread 512 kB."""
_STACK_SIZE = threading.Lock()
"""The size of new threads' stacks is the process's own, whoever changes it."""
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
_NO_TEXT = "NoExtensionBias"
"""What the library says of a grammar that allows nothing at all."""
_ONE_OF = "coerce_one_of"
_IN_REGEX = "; error: "
_SHOWN = re.compile(r"<|\d+ \||\^+$")
_WHERE_OURS = re.compile(
    r"(at \d+\(\d+\): )?(failed to compile JSON schema: )|at \d+\(\d+\): (?=invalid regex)"
)


@dataclass(slots=True)
class _Compiled:
    """Matchers at the beginning of a grammar; copies of one share a lexer, which may get full.

    So what is only tried has another lexer than the answers.
    """

    answers: Any
    trials: Any
    n_uses: int = 0
    awaited_until_s: float = 0.0


class Grammars:
    """Compiles grammars for one tokenizer and keeps the newest; safe in any thread.

    Args:
        tokenizer: The model's.
        clock: Seconds.

    Raises:
        ConfigError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, clock: Callable[[], float] = time.monotonic) -> None:
        self._library = _library()
        self._vocabulary = GrammarVocabulary(tokenizer)
        self._limits = self._library.LLParserLimits(**_LIMITS)
        self._compiled: OrderedDict[Grammar, _Compiled] = OrderedDict()
        self._clock = clock
        self._lock = threading.Lock()
        self._at_work = threading.Semaphore(_N_THREADS)

    def prepare(self, grammar: Grammar) -> None:
        """Compile it now, so that `constraint` is quick; for a thread that may wait.

        Raises:
            ConfigError: it is no grammar, too large, or cannot be held; `param` is "grammar".
            OverloadedError: too many are being compiled.
        """
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None and known.n_uses < _MAX_USES and not _is_full(known):
                self._keep(grammar, known)
                return
        made = self._compile(grammar)
        with self._lock:
            self._keep(grammar, made)

    def constraint(self, grammar: Grammar, stop_token_ids: Sequence[int] = ()) -> GrammarConstraint:
        """What holds one answer to a grammar that was prepared just now; never waits.

        It may end with one of the tokens given.

        Raises:
            OverloadedError: it is not there any more, as many others were prepared since.
        """
        with self._lock:
            known = self._compiled.get(grammar)
            if known is None or _is_full(known):
                raise OverloadedError(
                    "too many grammars are in use at the same time", hint="try again in a moment"
                )
            known.n_uses += 1
            self._compiled.move_to_end(grammar)
            matcher, trial = known.answers.deep_copy(), known.trials.deep_copy()
        return GrammarConstraint(matcher, trial, self._vocabulary, stop_token_ids)

    def compile(self, grammar: Grammar, stop_token_ids: Sequence[int] = ()) -> GrammarConstraint:
        """Both at once, where nobody else waits: for engines of this process.

        Raises:
            ConfigError, OverloadedError: as `prepare`.
        """
        self.prepare(grammar)
        return self.constraint(grammar, stop_token_ids)

    def _keep(self, grammar: Grammar, made: _Compiled) -> None:
        """As the newest; the oldest go, those last that a request has prepared just now."""
        now_s = self._clock()
        made.awaited_until_s = now_s + _AWAITED_S
        self._compiled[grammar] = made
        self._compiled.move_to_end(grammar)
        for old, it in list(self._compiled.items())[:-_N_CACHED]:
            if it.awaited_until_s <= now_s or len(self._compiled) > _N_AWAITED:
                del self._compiled[old]

    def _compile(self, grammar: Grammar) -> _Compiled:
        """In a thread of its own, with room for recursion and a deadline."""
        if not self._at_work.acquire(timeout=_DEADLINE_S):
            raise OverloadedError("other grammars are being compiled", hint="try again later")
        made: Future[_Compiled] = Future()

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

    def _compile_here(self, grammar: Grammar) -> _Compiled:
        source = source_of(grammar)
        made = _Compiled(self._read(source), self._read(source))
        # The first mask finds what has no answer at all, or too many at once; the second what has
        # filled the lexer, which copies share, so that no answer could follow the first.
        for _ in range(2):
            first = GrammarConstraint(made.answers.deep_copy(), None, self._vocabulary, ())
            self._vocabulary.try_mask(first)
            if first.is_broken and (not first.error or _NO_TEXT in first.error):
                raise _refuse("has no answer: there is no text that it allows")
            if first.is_broken:
                raise _refuse(f"has too many answers at once: {_readable(first.error)}")
        _require_end(made.trials.deep_copy())
        return made

    def _read(self, source: str) -> Any:
        matcher = self._library.LLMatcher(
            self._vocabulary.library_tokenizer, source, log_level=0, limits=self._limits
        )
        if matcher.is_error():
            raise _refuse(f"cannot be held: {_readable(matcher.get_error())}")
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


def _is_full(compiled: _Compiled) -> bool:
    """Whether answers have filled the lexer, so that no other could follow."""
    fresh = compiled.answers.deep_copy()
    fresh.compute_bitmask()
    return bool(fresh.is_error())


def _require_end(matcher: Any) -> None:
    """Refuse what allows one text alone, that goes on for ever: no answer could even begin it."""
    matcher.consume_tokens(matcher.compute_ff_tokens())
    if matcher.is_error():
        raise _refuse("never ends, or is too long, where it allows one text alone")


def _readable(message: str) -> str:
    """What a client may read: nothing about options that it does not have, and no source of ours.

    The library shows the lines where it stopped, also of grammars that are made here of schemas.
    """
    if _ONE_OF in message:
        return "oneOf is not supported, only anyOf"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = _WHERE_OURS.sub("", "; ".join(line for line in lines if not _SHOWN.match(line)))
    text = told.rpartition(_IN_REGEX)[2] if _IN_REGEX in told else told
    return text if len(text) <= _ERROR_CHARACTERS else text[:_ERROR_CHARACTERS] + " ..."


def _refuse(what: str) -> ConfigError:
    return ConfigError(
        f"the grammar {what}", hint="change or leave out what is named", param="grammar"
    )


def _start_with_stack(thread: threading.Thread) -> None:
    """Start it with a stack of its own size; a thread that another starts just now gets it too."""
    with _STACK_SIZE:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
