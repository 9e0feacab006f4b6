"""The exit code of every error code, one table, used by the command line and by jobs.

0 is success and 1 an error that we did not foresee; 130 is what a shell reports for Ctrl-C.
The numbers are a public surface: they never change their meaning.
"""

from __future__ import annotations

from mulm.errors import MulmError

EXIT_BY_CODE: dict[str, int] = {
    "internal": 1,
    "config_invalid": 2,
    "not_found": 3,
    "data_invalid": 4,
    "corrupt": 5,
    "tokenizer_mismatch": 6,
    "port_busy": 7,
    "no_space": 8,
    "conflict": 9,
    "not_running": 10,
    "device_unavailable": 11,
    "job_failed": 12,
    "training_diverged": 13,
    "unauthorized": 14,
    "context_length_exceeded": 15,
    "overloaded": 16,
    "deadline_exceeded": 17,
    "unknown_name": 18,
    "schema_mismatch": 19,
    "unreachable": 20,
    "rate_limit_exceeded": 21,
    "insufficient_quota": 22,
    "stopped": 130,
}

FAULTS_FOUND = 30
"""`mulm doctor` worked, and found something that does not."""


def exit_code(error: BaseException) -> int:
    """The exit code of an error; 1 for what is not of our family."""
    return EXIT_BY_CODE.get(error.code, 1) if isinstance(error, MulmError) else 1
