"""A machine without the head's disk reads versions through the cluster; names go with its word."""

from __future__ import annotations

import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from actors.write_fact import write_fact
from mulm.errors import ConflictError
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.origin import CHUNK_BYTES
from mulm.store import Store

pytestmark = pytest.mark.cluster

ON_A_WORKER = """
import sys
from pathlib import Path
from typing import Any
import ray
from actors.ledger_host import NAMESPACE
from actors.store_host import connect_store, start_store
from mulm.errors import NotFoundError
from mulm.home import Home
from mulm.store import Store

address, head, far, manifest_id = sys.argv[1:]
ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
start_store(Home(Path(head)))
start_store(Home(Path(head)))
store = Store(Path(far), connect_store())
store.paths(store.load(manifest_id).blobs)
try:
    store.load("ds_" + "0" * 24)
except NotFoundError as error:
    print(error.message)
"""


def test_a_version_travels_from_the_head(cluster: Any, tmp_path: Path) -> None:
    store = Store(cluster.home.store)
    tokens = array("H", range(50_000)).tobytes() * (CHUNK_BYTES // 50_000)  # more than one piece
    blobs = (store.put("train-00000.bin", tokens, rows=len(tokens) // 2), store.put("a", b""))
    manifest = Manifest(kind="dataset", code_version="0", config={}, blobs=blobs)
    store.save(manifest)
    done = subprocess.run(
        [sys.executable, "-c", ON_A_WORKER, cluster.info.gcs_address, str(cluster.home.root),
         str(tmp_path / "far"), manifest.id],
        env=cluster.env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no version" in done.stdout
    assert Store(tmp_path / "far").read(blobs[0]) == tokens


def test_a_name_is_removed_while_the_application_is_up(cluster: Any) -> None:
    for number in range(2):
        write_fact(cluster.home, "publish", "dataset", "removable", f"ds_{number:024}")
    write_fact(cluster.home, "set_alias", "dataset", "removable", "live", 1)
    with pytest.raises(ConflictError, match="removable@live"):
        write_fact(cluster.home, "remove_version", "dataset", "removable", 1)
    write_fact(cluster.home, "remove_version", "dataset", "removable", 2)
    with Ledger(cluster.home.ledger) as ledger:
        assert [v.ref for v in ledger.versions("dataset", "removable")] == ["removable@1"]
