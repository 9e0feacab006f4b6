"""A machine of its own: its checkpoints and its model come to the head, and the head's to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from actors import courier as courier_module
from actors import store_host
from actors.courier import Courier, find_courier
from actors.store_host import StoreHost, is_mark, new_mark
from mulm import origin
from mulm.checkpoint_files import checkpoints, parse_files, read_files
from mulm.errors import ConfigError, CorruptError, DeadlineError, NotFoundError, NotRunningError
from mulm.home import Home
from mulm.manifest import Manifest
from mulm.model.checkpoint import load_checkpoint, save_checkpoint
from mulm.store import Store

RUN = "run_far"
PIECE = 1000


class Line:
    """Calls the host; may break at a call, and notes what goes over it."""

    def __init__(self, host: StoreHost) -> None:
        self.host = host
        self.breaks_at: int | None = None
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __call__(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        assert timeout_s > 0
        self.calls.append((method, arguments))
        if self.breaks_at is not None and len(self.calls) >= self.breaks_at:
            raise NotRunningError("the store is gone")
        return getattr(self.host, method)(*arguments)

    def sent_bytes(self) -> int:
        return sum(len(arguments[-1]) for method, arguments in self.calls if method == "add")


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (courier_module, store_host):
        monkeypatch.setattr(module, "CHUNK_BYTES", PIECE)
    assert origin.CHUNK_BYTES > PIECE


@pytest.fixture
def head(tmp_path: Path) -> Home:
    return Home(tmp_path / "head")


@pytest.fixture
def far(tmp_path: Path) -> Home:
    return Home(tmp_path / "far")


@pytest.fixture
def line(head: Home) -> Line:
    return Line(StoreHost(str(head.root)))


@pytest.fixture
def courier(line: Line, far: Home) -> Courier:
    return Courier(line, RUN, far.run(RUN))


def shelf(home: Home) -> Path:
    return home.run(RUN) / "checkpoints"


def write(home: Home, step: int, value: float = 1.0) -> Path:
    tensors = {"a": torch.full((700,), value)}
    return save_checkpoint(shelf(home), step, tensors, {"loss": value})


def names(home: Home) -> list[str]:
    return [path.name for path in checkpoints(shelf(home))]


def test_checkpoints_come_to_the_head_whole_and_old_ones_go(
    courier: Courier, line: Line, head: Home, far: Home
) -> None:
    for step in (1, 2, 3):
        courier.send_checkpoint(write(far, step, float(step)), 1, 1)
    assert names(head) == ["step-00000001", "step-00000003"]
    arrived = load_checkpoint(shelf(head) / "step-00000003")
    assert arrived.state == {"loss": 3.0}
    assert torch.equal(arrived.tensors["a"], torch.full((700,), 3.0))
    pieces = [arguments[-1] for method, arguments in line.calls if method == "add"]
    assert max(map(len, pieces)) == PIECE
    assert sorted(path.name for path in head.run(RUN).iterdir()) == ["checkpoints"]


def test_bringing_twice_is_harmless(courier: Courier, head: Home, far: Home) -> None:
    path = write(far, 1)
    courier.send_checkpoint(path, 2, None)
    courier.send_checkpoint(path, 2, None)
    assert names(head) == ["step-00000001"]
    load_checkpoint(shelf(head) / "step-00000001")


def test_what_broke_goes_on_where_it_was(
    courier: Courier, line: Line, head: Home, far: Home
) -> None:
    path = write(far, 1)
    files = read_files(path)
    assert files is not None
    line.breaks_at = 6  # state.json and two pieces of the tensors are there
    with pytest.raises(NotRunningError):
        courier.send_checkpoint(path, 2, None)
    line.breaks_at = None
    assert names(head) == []
    line.calls.clear()
    line.host = StoreHost(str(head.root))  # started again
    courier.send_checkpoint(path, 2, None)
    assert line.sent_bytes() == files.files["tensors.safetensors"][1] - 2 * PIECE
    load_checkpoint(shelf(head) / "step-00000001")


def test_what_was_damaged_on_the_way_is_refused(
    courier: Courier, line: Line, head: Home, far: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = line.host.add

    def flips(run_id: str, sha256: str, size_bytes: int, start: int, piece: bytes) -> int:
        return honest(run_id, sha256, size_bytes, start, piece[:-1] + b"\x55")

    path = write(far, 1)
    monkeypatch.setattr(line.host, "add", flips)
    with pytest.raises(CorruptError):
        courier.send_checkpoint(path, 2, None)
    assert names(head) == []
    assert list(shelf(head).iterdir()) == []
    monkeypatch.setattr(line.host, "add", honest)
    courier.send_checkpoint(path, 2, None)
    load_checkpoint(shelf(head) / "step-00000001")


def test_what_is_over_the_limit_is_refused(far: Home, head: Home) -> None:
    small = Line(StoreHost(str(head.root), limit_bytes=PIECE))
    with pytest.raises(ConfigError, match="larger than"):
        Courier(small, RUN, far.run(RUN)).send_checkpoint(write(far, 1), 2, None)
    assert names(head) == []


def test_a_head_that_keeps_nothing_is_not_sent_to_for_ever(
    courier: Courier, line: Line, far: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line.host, "add", lambda *_: 0)
    with pytest.raises(DeadlineError):
        courier.send_checkpoint(write(far, 1), 2, None)


def test_a_machine_begins_with_the_heads_checkpoints_and_no_other(
    courier: Courier, line: Line, head: Home, far: Home
) -> None:
    for step in (1, 2):
        write(head, step, float(step))
    write(far, 2, 9.0)  # of another life
    write(far, 5)  # never came to the head
    courier.fetch(is_whole_shelf=True)
    assert names(far) == ["step-00000001", "step-00000002"]
    assert load_checkpoint(shelf(far) / "step-00000002").state == {"loss": 2.0}
    line.calls.clear()
    courier.fetch(is_whole_shelf=True)
    assert [method for method, _ in line.calls] == ["checkpoints"]


def test_a_worker_that_only_reads_fetches_the_newest_alone(
    courier: Courier, head: Home, far: Home
) -> None:
    for step in (1, 2):
        write(head, step)
    courier.fetch(is_whole_shelf=False)
    assert names(far) == ["step-00000002"]


def test_a_damaged_copy_is_fetched_again_and_a_damaged_head_is_told(
    courier: Courier, head: Home, far: Home
) -> None:
    there = write(head, 1)
    courier.fetch(is_whole_shelf=False)
    (shelf(far) / "step-00000001" / "state.json").write_bytes(b'{"loss": 7.0}')
    courier.fetch(is_whole_shelf=False)
    assert load_checkpoint(shelf(far) / "step-00000001").state == {"loss": 1.0}
    (there / "state.json").write_bytes(b'{"loss":9.0}')
    (shelf(far) / "step-00000001" / "state.json").unlink()
    with pytest.raises(CorruptError, match="the head's checkpoint"):
        courier.fetch(is_whole_shelf=False)


def test_a_model_comes_to_the_heads_store_once(
    courier: Courier, line: Line, head: Home, far: Home
) -> None:
    store, there = Store(far.store), Store(head.store)
    there.put("b", b"known")
    blobs = (store.put("a", bytes(3 * PIECE)), store.put("b", b"known"), store.put("c", b""))
    manifest = Manifest(kind="model", code_version="0", config={}, blobs=blobs)
    store.save(manifest)
    courier.send_version(store, manifest.id)
    assert there.load(manifest.id) == manifest
    assert there.read(blobs[0]) == bytes(3 * PIECE)
    assert there.read(blobs[2]) == b""
    assert line.sent_bytes() == 3 * PIECE
    courier.send_version(store, manifest.id)
    assert line.sent_bytes() == 3 * PIECE


@pytest.mark.parametrize("run_id", ["..", "a/b", "", ".x", "x" * 200])
def test_only_runs_can_be_written_to(line: Line, run_id: str) -> None:
    with pytest.raises(NotFoundError):
        line.host.checkpoints(run_id)
    with pytest.raises(NotFoundError):
        line.host.keep_checkpoint(run_id, b"{}", 1, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"step": 1, "files": {}}',
        b'{"step": -1, "files": {}}',
        b'{"step": 1, "files": {"../x": {"sha256": "0", "size_bytes": 1}}}',
        b" " * (1 << 20),
    ],
)
def test_a_manifest_is_not_believed(content: bytes) -> None:
    with pytest.raises(CorruptError):
        parse_files(content)


def test_only_files_of_a_checkpoint_can_be_read(line: Line, head: Home) -> None:
    write(head, 1)
    for step, name in [(1, "../../x"), (1, "manifest.json"), (2, "state.json")]:
        with pytest.raises(NotFoundError):
            line.host.checkpoint_piece(RUN, step, name, 0)


def test_who_shares_the_home_needs_no_courier(
    line: Line, head: Home, far: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "store_handle", lambda: _Handle(line.host))
    monkeypatch.setattr(courier_module, "answer", lambda reference, *_: reference)
    assert find_courier(head, RUN) is None
    assert find_courier(far, RUN) is not None
    assert list(far.root.iterdir()) == list(head.root.iterdir()) == []


def test_a_mark_is_no_path() -> None:
    assert is_mark(new_mark())
    assert not is_mark("ledger.sqlite")
    assert not is_mark("../" + new_mark())


class _Handle:
    def __init__(self, host: StoreHost) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._host, name)
        return type("Method", (), {"remote": staticmethod(method)})
