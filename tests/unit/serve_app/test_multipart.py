from __future__ import annotations

from itertools import pairwise

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.multipart import MAX_HEAD_BYTES, MAX_PARTS, FormError, FormReader, Part, boundary_of
from tests.unit.quick import shortest_s

TYPE = "multipart/form-data; boundary=edge"
HEAD = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
END = b"\r\n--edge--\r\n"


def read(body: bytes, cuts: list[int] | None = None, content_type: str = TYPE):
    """Parts with their contents."""
    reader = FormReader(content_type)
    found: list[tuple[Part, bytes]] = []
    places = [0, *sorted(cuts or []), len(body)]
    for start, stop in pairwise(places):
        for item in reader.feed(body[start:stop]):
            if isinstance(item, Part):
                found.append((item, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + item)
    reader.close()
    return found


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_form_is_the_same_however_it_is_cut(data) -> None:
    nasty = st.sampled_from([b"\r\n--edge", b"\r\n--edg", b"\r", b"--edge--", b"\r\n\r\n", b"\0"])
    content = b"".join(data.draw(st.lists(st.binary(max_size=30) | nasty, max_size=6)))
    while b"\r\n--edge" in content:  # what is left and right of one may be one together
        content = content.replace(b"\r\n--edge", b"")
    body = b"before\r\n" * data.draw(st.integers(0, 1)) + HEAD + content + END + b"after"
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12))
    assert read(body, cuts) == read(body) == [(Part("file", "a.txt"), content)]


@given(name=st.text(max_size=50), field=st.text(max_size=50), content=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_what_the_official_clients_library_writes_is_read(name, field, content) -> None:
    request = httpx2.Request(
        "POST", "http://x", data={"purpose": field}, files={"file": (name or "x", content)}
    )
    found = read(request.read(), content_type=request.headers["content-type"])
    assert [(part.name, got) for part, got in found] == [
        ("purpose", field.encode()), ("file", content),
    ]  # fmt: skip
    assert found[0][0].filename is None
    assert found[1][0].filename is not None


@pytest.mark.parametrize(("told", "name"), [
    (b'filename="a b.txt"', "a b.txt"),
    (b"filename=bare.txt", "bare.txt"),
    (b'filename="../../etc/passwd"', "../../etc/passwd"),
    (rb'filename="C:\\a\"b.txt"', 'C:\\a"b.txt'),
    ('filename="ünï\u202e.txt"'.encode(), "ünï\u202e.txt"),
    (b'filename="\xff"', "\ufffd"),
    (b'filename="a\0b"', "a\0b"),
    (b"filename*=UTF-8''na%C3%AFve%2F", "naïve/"),
    (b"filename=\"x\"; filename*=utf-8''y", "y"),
    (b'filename="' + b"n" * 10_240 + b'"', "n" * 10_240),
])  # fmt: skip
def test_names_are_labels(told: bytes, name: str) -> None:
    head = HEAD.replace(b'filename="a.txt"', told)
    assert read(head + b"x" + END) == [(Part("file", name), b"x")]


@pytest.mark.parametrize("body", [
    b"",
    b"nothing of the kind",
    HEAD + b"cut short",
    HEAD + b"x\r\n--edge",
    HEAD + b"x\r\n--edge-",
    b"--edge\r\n\r\nno head" + END,
    b"--edge\r\nContent-Disposition: attachment; name=x\r\n\r\n" + END,
    b"--edge\r\nContent-Disposition: form-data; filename=x\r\n\r\n" + END,
    b'--edge\r\nContent-Disposition: form-data; name="open\r\n\r\n' + END,
    b"--edge\r\nContent-Disposition: form-data; name=x\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + END,
    b"--edgeX\r\n" + END,
    b"--edge" + b" " * (MAX_HEAD_BYTES + 10),
    b"--edge\r\nX: " + b"x" * (MAX_HEAD_BYTES + 10),
    HEAD.join([b""] + [b"x\r\n"] * (MAX_PARTS + 1)) + END,
])  # fmt: skip
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(FormError):
        read(body)


@pytest.mark.parametrize("content_type", [
    "", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
    "multipart/form-data; boundary=" + "x" * 71, "multipart/form-data; boundary=ä",
    "text/plain; boundary=edge",
])  # fmt: skip
def test_what_names_no_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(FormError):
        boundary_of(content_type)


def test_a_hostile_head_costs_little_time() -> None:
    heads = [b';a="\\"' * 10_000, b";" + b" " * 60_000, b";a=" * 20_000, b'"' * 60_000]

    def refuse() -> None:
        for head in heads:
            with pytest.raises(FormError):
                read(b"--edge\r\nContent-Disposition: form-data" + head + b"\r\n\r\n" + END)

    assert shortest_s(refuse, 1.0) < 1.0
