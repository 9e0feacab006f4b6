"""Checks of `mulm doctor` on what lies in MULM_HOME: folder, database, store, secrets."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from jobs.dataset_words import size_text
from jobs.doctor_finding import Surroundings, Verdict, existing, fault, fine, warning
from mulm.checksum import hash_file
from mulm.errors import MulmError
from serve_app.key_text import read_secret
from serve_app.keys import FIRST_KEY_NAME, NEW_FIRST, read_first_key

_LEAST_FREE_BYTES = 500_000_000
"""`mulm up` starts with no less."""
_GOOD_FREE_BYTES = 4_000_000_000
_SAMPLE_FILES = 32
_SAMPLE_BYTES = 200_000_000
_OTHERS_MAY = 0o077
_NO_LOCKS = ("nfs", "cifs", "smb", "9p", "drvfs", "fuse.sshfs", "v9fs", "vboxsf", "virtiofs")
"""Filesystems on which SQLite's locks and shared memory are not to be trusted."""


def writable(machine: Surroundings) -> Verdict:
    """Whether the folder can be made and written."""
    home = machine.home.root
    place = existing(home)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return fine(str(home) if place == home else f"{home}, not there yet")
    return fault(
        f"{str(place)!r} cannot be written",
        "point MULM_HOME at a folder of yours; after a `sudo mulm`, sudo chown -R $USER it",
    )


def permissions(machine: Surroundings) -> Verdict:
    """Whether secrets are for their owner only, and the folder's files are the user's."""
    home = machine.home
    if not home.root.exists():
        return fine("nothing is there yet")
    secret = [home.root, home.api_key, home.key_secret, home.ray_token, home.ledger]
    open_to_all = [p for p in secret if p.exists() and p.stat().st_mode & _OTHERS_MAY]
    others = [p for p in (home.root, *_inside(home.root)) if p.lstat().st_uid != machine.user_id]
    if others:
        return fault(
            f"{str(others[0])!r} belongs to another user", f"sudo chown -R $USER {home.root}"
        )
    if home.root in open_to_all:  # what is in a closed folder is closed
        names = ", ".join(str(path) for path in open_to_all)
        return warning(f"others may read {names}", f"chmod -R go= {home.root}")
    return fine("for you only")


def disk(machine: Surroundings) -> Verdict:
    """Whether there is space."""
    free_bytes = machine.disk(machine.home.root).free_bytes
    told = f"{size_text(free_bytes)} free for {machine.home.root}"
    fix = "`mulm gc` removes what nothing needs; or point MULM_HOME at a larger disk"
    if free_bytes < _LEAST_FREE_BYTES:
        return fault(told, fix)
    return warning(told, fix) if free_bytes < _GOOD_FREE_BYTES else fine(told)


def filesystem(machine: Surroundings) -> Verdict:
    """Whether the database can lie there: not on a network's, not on Windows' disk."""
    place = existing(machine.home.root).resolve()
    kind, deepest = "", -1
    for line in machine.text("proc/mounts").splitlines():
        fields = line.split()
        mount = Path(fields[1].replace("\\040", " ")) if len(fields) > 2 else None
        if mount is not None and place.is_relative_to(mount) and len(mount.parts) >= deepest:
            kind, deepest = fields[2], len(mount.parts)
    if not kind.startswith(_NO_LOCKS):
        return fine(kind or "this system does not tell")
    return fault(
        f"{str(machine.home.root)!r} lies on {kind}, where SQLite cannot keep writers apart",
        "point MULM_HOME at a local disk (under Windows one of WSL: ~/.mulm)",
    )


def database(machine: Surroundings) -> Verdict:
    """Whether the ledger opens and is whole."""
    path = machine.home.ledger
    if not path.exists():
        return fine("there is none yet")
    fix = "`mulm restore` a backup; or move the file away: `mulm data verify` knows what is stored"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as opened:
            (first, *_) = opened.execute("PRAGMA quick_check(1)").fetchone()
            runs = opened.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error as error:
        return fault(f"the ledger cannot be read: {error}", fix)
    return fine(f"whole, {runs} runs") if first == "ok" else fault(f"damaged: {first}", fix)


def store(machine: Surroundings) -> Verdict:
    """Whether a sample of the stored files still matches the checksums that are their names."""
    files = sorted((machine.home.store / "blobs").glob("*/" + "[0-9a-f]" * 64))
    random.Random(int(machine.now_s)).shuffle(files)
    read_bytes, damaged = 0, []
    sample = files[:_SAMPLE_FILES]
    for number, path in enumerate(sample):
        size_bytes = path.stat().st_size
        if read_bytes + size_bytes > _SAMPLE_BYTES and number:
            continue
        read_bytes += size_bytes
        if hash_file(path) != path.name:
            damaged.append(path)
    if damaged:
        return fault(
            f"{len(damaged)} of {len(sample)} files are damaged, such as {damaged[0].name[:12]}",
            "`mulm data verify` reads all and says of what they are; the command that made a"
            " version mends it",
        )
    return fine(f"{len(files)} files, {size_text(read_bytes)} of them read" if files else "empty")


def key(machine: Surroundings) -> Verdict:
    """Whether the first API key is there and is one, and the secret of all keys' digests is."""
    if not machine.home.api_key.exists() and not _has_keys(machine.home.ledger):
        return fine("the first `mulm up` makes it")
    try:
        read_first_key(machine.home)
        if machine.home.key_secret.exists():
            read_secret(machine.home.key_secret)
    except (MulmError, OSError) as error:
        return fault(str(error), getattr(error, "hint", "") or f"chmod 600 {machine.home.api_key}")
    if (expires_s := _first_expires_s(machine.home.ledger)) and expires_s <= machine.now_s:
        return fault("the first API key has expired", NEW_FIRST)
    return fine(str(machine.home.api_key))


def _first_expires_s(ledger: Path) -> float | None:
    """When the first key ends, where it does; nothing of a ledger that cannot be read."""
    asked = "SELECT expires_s FROM keys WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=10)) as opened:
            (expires_s,) = opened.execute(asked, [FIRST_KEY_NAME]).fetchone() or (None,)
    except sqlite3.Error:
        return None
    return None if expires_s is None else float(expires_s)


def _has_keys(ledger: Path) -> bool:
    """Whether a key was ever made; a ledger that cannot be read is what `database` tells of."""
    if not ledger.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=10)) as opened:
            return bool(opened.execute("SELECT EXISTS (SELECT 1 FROM keys)").fetchone()[0])
    except sqlite3.Error:
        return True


def _inside(folder: Path) -> list[Path]:
    """What lies directly in a folder; nothing of one that is not there, or not ours to read."""
    return sorted(folder.iterdir()) if folder.is_dir() and os.access(folder, os.R_OK) else []
