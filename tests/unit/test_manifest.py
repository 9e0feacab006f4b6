from __future__ import annotations

import pytest

from mulm.errors import CorruptError
from mulm.manifest import (
    PREFIX_BY_KIND,
    BlobEntry,
    Manifest,
    is_manifest_id,
    parse_manifest,
)

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


OLD = (
    b'{"blobs":[{"name":"train-00000.bin","rows":500,"sha256":'
    b'"4b1749cd0e4e01ead7805ec0b5d89f0c32f855902e4a9a83688cffbce2d4b962","size_bytes":1000},'
    b'{"name":"train-00001.bin","rows":3,"sha256":'
    b'"0bd3b42b9cc346d65ba5a90328039e8a10d60c6cfdbac8ef71904be65575188c","size_bytes":6},'
    b'{"name":"train-00002.bin","rows":777,"sha256":'
    b'"b722e3c78d8cd3ba5e430bc4242937befe9c4cdf3e4918b7263938fb107adcaa","size_bytes":1554},'
    b'{"name":"validation-00000.bin","rows":150,"sha256":'
    b'"c60e12e2cbf9c80292d50cf85a3a992b08afa0d2d46511ff69fe973fdde7c746","size_bytes":300}],'
    b'"code_version":"0","config":{},"counts":{},"kind":"dataset","licences":[],"parents":{},'
    b'"schema_version":1,"tokenizer_fingerprint":null}'
)


def test_a_manifest_of_the_first_format_keeps_its_id_and_bytes() -> None:
    old = parse_manifest(OLD, "ds_1333dea81d44973fcaae8d22")
    assert old.to_bytes() == OLD
    assert old.blobs[2].content_sha256 is None


def test_the_id_does_not_depend_on_the_compressor() -> None:
    content = "1" * 64
    one = BlobEntry(name="a", sha256="a" * 64, size_bytes=3, content_sha256=content)
    other = BlobEntry(name="a", sha256="b" * 64, size_bytes=4, content_sha256=content)
    assert manifest(blobs=[one]).id == manifest(blobs=[other]).id
    assert manifest(blobs=[one]).to_bytes() != manifest(blobs=[other]).to_bytes()
    assert parse_manifest(manifest(blobs=[one]).to_bytes(), manifest(blobs=[other]).id).blobs == (
        one,
    )
    changed = one.model_copy(update={"content_sha256": "2" * 64})
    assert len({manifest(blobs=[b]).id for b in (one, changed, BLOB)}) == 3


def test_ids_of_versions_are_told_from_others() -> None:
    assert is_manifest_id(manifest().id)
    assert not any(map(is_manifest_id, ["run_" + "0" * 24, "mdl_1", "books@3", None, 7]))
