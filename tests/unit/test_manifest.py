from __future__ import annotations

import pytest

from mulm.errors import CorruptError
from mulm.manifest import PREFIX_BY_KIND, BlobEntry, Manifest, parse_manifest

BLOB = BlobEntry(name="a", sha256="0" * 64, size_bytes=3)


def manifest(**changes: object) -> Manifest:
    values = {"kind": "model", "code_version": "1", "config": {"b": 1, "a": 2}, "blobs": (BLOB,)}
    return Manifest.model_validate(values | changes)


def test_the_id_is_a_function_of_the_content() -> None:
    assert manifest().id == manifest(config={"a": 2, "b": 1}).id
    ids = {manifest().id, manifest(code_version="2").id, manifest(parents={"run": "run_1"}).id}
    assert len(ids) == 3


def test_an_id_known_by_heart() -> None:
    """Ids stand in users' ledgers: a change of the format needs a new schema version."""
    assert manifest().id == "mdl_4b9bc12e05190049be239cf9"


def test_prefixes_are_distinct() -> None:
    assert len(set(PREFIX_BY_KIND.values())) == len(PREFIX_BY_KIND)


def test_round_trip() -> None:
    assert parse_manifest(manifest().to_bytes(), manifest().id) == manifest()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff", manifest(licences=["x"]).to_bytes()]
)
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(CorruptError):
        parse_manifest(content, manifest().id)


def test_a_missing_file_is_corruption() -> None:
    assert manifest().blob("a") == BLOB
    with pytest.raises(CorruptError, match="'b'"):
        manifest().blob("b")
