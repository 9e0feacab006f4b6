"""The error family: every mistake that a user can make has a class and a stable code.

Raised everywhere, caught only at the borders (command line, HTTP, job entry points).
A `MulmError` takes one positional message and keyword details, so that it survives
pickling between processes. The HTTP status and the exit code of each code stand in one
table each: `serve_app.errors.STATUS_BY_CODE` and `jobs.exit_codes.EXIT_BY_CODE`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

_MOST_LISTED = 8

HINT = "hint: "
"""What begins the hint in a traceback."""


class MulmError(Exception):
    """Something that a user or operator can understand and mend.

    Args:
        message: What is wrong, with the offending value.
        hint: What to do about it, or what exists instead.
        details: Machine-readable facts, JSON-compatible.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message  # by itself: Ray Data appends words of its own to `args`
        self.hint = hint
        self.details = details
        if hint:
            self.add_note(f"{HINT}{hint}")  # in tracebacks too, which are all that Serve tells


class ConfigError(MulmError):
    """A configuration, recipe, flag or request field has an impossible value."""

    code = "config_invalid"


class UnknownNameError(MulmError):
    """A preset, key, format or option of that name does not exist."""

    code = "unknown_name"


class NotFoundError(MulmError):
    """A file, version, alias or run that was named does not exist."""

    code = "not_found"


class DataError(MulmError):
    """A corpus cannot be used: empty, binary, too small."""

    code = "data_invalid"


class SchemaError(MulmError):
    """A file's rows or columns are not those that a recipe asks for."""

    code = "schema_mismatch"


class CorruptError(MulmError):
    """Stored bytes do not match their checksum."""

    code = "corrupt"


class TokenizerMismatchError(MulmError):
    """Two artefacts were made with different tokenizers."""

    code = "tokenizer_mismatch"


class PortBusyError(MulmError):
    """A port that we need is taken by another process."""

    code = "port_busy"


class NoSpaceError(MulmError):
    """The disk is full, or too full for what was asked."""

    code = "no_space"


class ConflictError(MulmError):
    """The state of things forbids it: already up, already taken."""

    code = "conflict"


class NotRunningError(MulmError):
    """The µLM application is not up, or stopped answering."""

    code = "not_running"


class DeviceError(MulmError):
    """A device that was asked for is absent or unusable."""

    code = "device_unavailable"


class JobFailedError(MulmError):
    """A job ended without a result."""

    code = "job_failed"


class TrainingDivergedError(MulmError):
    """The loss stopped being a finite number."""

    code = "training_diverged"


class AuthError(MulmError):
    """No API key, or one that is not valid; or a hub refuses."""

    code = "unauthorized"


class ContextLengthError(MulmError):
    """Prompt and requested tokens do not fit the model's window."""

    code = "context_length_exceeded"


class OverloadedError(MulmError):
    """Every slot and the waiting line are full: try again later."""

    code = "overloaded"


class DeadlineError(MulmError):
    """Something did not finish within its deadline."""

    code = "deadline_exceeded"


class RateLimitedError(MulmError):
    """More was asked for than a limit allows now: try again later."""

    code = "rate_limit_exceeded"


class QuotaError(MulmError):
    """A key has used up its tokens, has too few left, or has judged as many answers as one may."""

    code = "insufficient_quota"


class UnreachableError(MulmError):
    """A server elsewhere, such as a hub of models, cannot be reached."""

    code = "unreachable"


class StoppedError(MulmError):
    """Stopped on request; what was finished is kept."""

    code = "stopped"


def error_classes() -> tuple[type[MulmError], ...]:
    """All classes of the family, the base first."""
    return (MulmError, *MulmError.__subclasses__())


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or lists what exists: the first few of many."""
    names = sorted(known)
    by_lower = {name.lower(): name for name in reversed(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if close:
        return f"did you mean {by_lower[close[0]]!r}?"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"known: {', '.join(names[:_MOST_LISTED])}{more}" if names else "there are none yet"
