"""Logging set-up, called once by entry points: a line a record, `key=value` facts, no secrets.

Library modules only do `logging.getLogger(__name__)`.
"""

from __future__ import annotations

import logging
import sys

from mulm.redaction import RedactingFormatter


def configure_logging(level: str = "INFO") -> None:
    """Send log records of ours to stderr; third parties only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("mulm", "actors", "serve_app", "jobs"):
        logging.getLogger(package).setLevel(level)
