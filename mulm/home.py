"""Where everything of one installation lives: `MULM_HOME`, by default `~/.mulm`.

Entry points make a `Home` once and pass it down; nothing else knows the layout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mulm.atomic import make_folder
from mulm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation and the paths inside it."""

    root: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Home:
        """`$MULM_HOME`, else `~/.mulm`."""
        return cls(Path(env.get("MULM_HOME") or Path.home() / ".mulm").expanduser().absolute())

    def create(self) -> Home:
        """Make the folder, readable by its owner only; harmless when it exists.

        Raises:
            ConfigError: it cannot be made or written to.
            NoSpaceError: the disk is full.
        """
        try:
            make_folder(self.root, mode=0o700)
        except OSError as error:
            raise _unusable(self.root, error.strerror) from None
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise _unusable(self.root, "it is read-only")
        return self

    @property
    def store(self) -> Path:
        """Immutable blobs and manifests."""
        return self.root / "store"

    @property
    def ledger(self) -> Path:
        """The SQLite database of mutable facts."""
        return self.root / "ledger.sqlite"

    @property
    def api_key(self) -> Path:
        """The first API key in clear text, mode 0600."""
        return self.root / "api_key"

    @property
    def key_secret(self) -> Path:
        """What digests of API keys are made with, mode 0600; without it no new key is valid."""
        return self.root / "key_secret"

    @property
    def ray_token(self) -> Path:
        """The token that guards Ray's dashboard and jobs, mode 0600."""
        return self.root / "ray_token"

    @property
    def join_token(self) -> Path:
        """The token of the cluster that this machine has joined, mode 0600."""
        return self.root / "joined_token"

    @property
    def joined(self) -> Path:
        """Which cluster this machine has joined (JSON); absent when it has left."""
        return self.root / "joined.json"

    @property
    def cluster_state(self) -> Path:
        """What Ray's head knows, for one that died to find its cluster again; gone after `down`."""
        return self.root / "cluster_state"

    @property
    def cluster(self) -> Path:
        """What the running application is reached by (JSON); absent when it is down."""
        return self.root / "cluster.json"

    @property
    def chat_history(self) -> Path:
        """What was typed into `mulm chat`, mode 0600; may be deleted at any time."""
        return self.root / "chat_history"

    @property
    def hub(self) -> Path:
        """What was fetched from a hub of models; may be deleted at any time."""
        return self.root / "hub"

    @property
    def compiled(self) -> Path:
        """Code that torch has compiled; may be deleted at any time."""
        return self.root / "compiled"

    def run(self, run_id: str) -> Path:
        """The folder of one run: resolved config, checkpoints, TensorBoard files."""
        return self.root / "runs" / run_id


def _unusable(root: Path, reason: str | None) -> ConfigError:
    return ConfigError(
        f"the folder {str(root)!r} cannot be used: {reason}",
        hint="point MULM_HOME at a folder that you may write to",
    )
