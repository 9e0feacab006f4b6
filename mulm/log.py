"""Logging set-up, called once by entry points: one line per record, `key=value` facts.

Library modules only do `logging.getLogger(__name__)`.
"""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str = "INFO") -> None:
    """Send log records of ours to stderr; third parties only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("mulm", "actors", "serve_app", "jobs"):
        logging.getLogger(package).setLevel(level)
