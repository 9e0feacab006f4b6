"""A Ray cluster of its own that serves exported weights, for `benchmarks.serve_http`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from actors.cluster_info import ray_env
from actors.head import ENV_VARIABLES_OF_RAY
from actors.processes import Pack
from benchmarks.serve_shapes import open_exported
from jobs.serve_model import serve_model
from jobs.up import start, stop
from mulm.home import Home
from mulm.native.build import build
from mulm.settings import Settings
from mulm.store import Store
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs

_PUBLISH = """
import sys
import ray
from actors.ledger_host import connect_facts
from mulm.home import Home
from serve_app.keys import ensure_first_key

ray.init(sys.argv[1], namespace="mulm", log_to_driver=False, logging_level="ERROR")
facts = connect_facts()
ensure_first_key(Home.from_env(), facts)
print(facts.publish("model", "measured", sys.argv[2]).ref)
"""


@contextmanager
def cluster_with(
    folder: Path, *, n_slots: int, n_threads: int, name: str
) -> Iterator[tuple[int, str, list[psutil.Process]]]:
    """The port, the key and the processes of a service; all is gone in the end."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(Path(temporary) / "home")
        info = start(home, Settings(http_port=0, dashboard_port=0, n_cpus=2))
        try:
            env = os.environ | ray_env(home) | ENV_VARIABLES_OF_RAY
            env["PYTHONPATH"] = str(Path(__file__).parents[1])
            model_id = _copy(folder, home)
            build(home.compiled)  # else plain torch answers first
            command = [sys.executable, "-c", _PUBLISH, info.gcs_address, model_id]
            done = subprocess.run(  # noqa: S603 - the lines above
                command, env=env, check=True, stdout=subprocess.PIPE, text=True
            )
            args = AppArgs(
                model=done.stdout.split()[-1], served_name=name, n_slots=n_slots,
                n_threads=n_threads, max_replicas=1, dtype="bfloat16",
            )  # fmt: skip
            serve_model(info, args, home=home)
            processes = [psutil.Process(p.pid) for p in Pack(home, info.id).find()]
            yield info.http_port, read_first_key(home), processes
        finally:
            stop(home, jobs_grace_s=5.0)


def _copy(folder: Path, home: Home) -> str:
    """Put the exported model into the cluster's store."""
    source, manifest = open_exported(folder)
    store = Store(home.store)
    for blob in manifest.blobs:
        store.put(blob.name, source.read(blob))
    store.save(manifest)
    return manifest.id
