from __future__ import annotations

import json
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, SourceFile
from mulm.data.sources.text import TextSource
from mulm.data.tasks import ListedFile, ReadTask, make_tasks, require_unchanged, unreadable
from mulm.errors import DataError, NotFoundError

SPEC = SourceSpec(path="anywhere")


class Parted(TextSource):
    """Files that lie nowhere, in parts of `PART_BYTES`."""

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        n_parts = max(1, int(file.path.name) // PART_BYTES)
        if n_parts == 1:
            return [Part()]
        return [Part(n * PART_BYTES, (n + 1) * PART_BYTES) for n in range(n_parts)]


def listed(name: object, size_bytes: int, source: int = 0) -> ListedFile:
    file = SourceFile(str(name), Path(str(size_bytes)))
    return ListedFile(source, file, sha256(str(name).encode()).hexdigest(), size_bytes, 0)


def tasks_of(files: list[ListedFile]) -> list[ReadTask]:
    return make_tasks(SPEC, Parted(), files)


def identities(tasks: list[ReadTask]) -> set[str]:
    return {json.dumps(task.identity) for task in tasks}


@given(st.lists(st.integers(0, 3 * PART_BYTES), max_size=30))
def test_every_part_is_read_once_and_no_task_is_large(sizes: list[int]) -> None:
    files = [listed(n, size) for n, size in enumerate(sizes)]
    tasks = tasks_of(files)
    pieces = list(chain.from_iterable(task.pieces for task in tasks))
    assert pieces == [(f, part) for f in files for part in Parted().parts(SPEC, f.file)]
    assert all(task.size_bytes < 3 * PART_BYTES for task in tasks)
    assert all(task.size_bytes >= PART_BYTES // 32 for task in tasks[:-1])


@pytest.mark.parametrize("size_bytes", [20_000, 100_000, 500_000, 3_000_000])
@pytest.mark.parametrize("new_bytes", [5_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("place", [0, 0.4])
def test_a_new_file_changes_few_tasks(size_bytes: int, new_bytes: int, place: float) -> None:
    files = [listed(n, size_bytes) for n in range(100_000_000 // size_bytes)]
    cut = int(place * len(files))
    before = identities(tasks_of(files))
    after = identities(tasks_of([*files[:cut], listed("new", new_bytes), *files[cut:]]))
    assert len(before) >= 8
    assert 1 <= len(after - before) <= 3


def test_identity_has_contents_and_settings_but_no_place() -> None:
    [task] = tasks_of([listed("a", 5)])
    [elsewhere] = make_tasks(
        SourceSpec(path="other", licence="MIT", name="poems", weight=2), Parted(),
        [ListedFile(3, SourceFile("a", Path("/there/5")), task.pieces[0][0].sha256, 5, 99)],
    )  # fmt: skip
    assert elsewhere.identity == task.identity
    assert (elsewhere.source, task.source) == (3, 0)
    for spec in (
        SourceSpec(path="x", type="text"),
        SourceSpec(path="x", sections=False),
        SourceSpec(path="x", columns={"text": "body"}),
    ):
        [other] = make_tasks(spec, Parted(), [listed("a", 5)])
        assert other.identity != task.identity
    assert tasks_of([listed("b", 5)])[0].identity != task.identity
    json.dumps(task.identity)


def test_a_changed_or_vanished_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    path.parent.mkdir()
    path.write_text("some text")
    stat = path.stat()
    file = ListedFile(0, SourceFile("deep/a.txt", path), "0" * 64, 9, stat.st_mtime_ns)
    require_unchanged(file)
    path.write_text("some more text")
    with pytest.raises(DataError, match=r"'deep/a.txt' changed while") as changed:
        require_unchanged(file)
    assert changed.value.hint
    path.unlink()
    with pytest.raises(NotFoundError, match=r"no such file.*a\.txt"):
        require_unchanged(file)


def test_unreadable_says_why() -> None:
    error = unreadable(SourceFile("a", Path("/x/a")), PermissionError(13, "Permission denied"))
    assert str(error) == "cannot read '/x/a': Permission denied"
    assert "permissions" in error.hint
