from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, SourceFile
from mulm.data.sources.detokenise import detokenise
from mulm.data.sources.wikitext import WholeSentencesSource, WikiTextSource
from tests.unit.data.sources.conftest import ReadAll

TWO = (
    " \n = First one = \n \n It has a <unk> . It ends . \n Second , half @-@ done . \n \n"
    " = = Part = = \n \n 1 @,@ 000 @.@ 5 km . \n x = 3 = y \n"
    " \n = Second <unk> = \n \n Only <unk> . \n"
)


def test_articles_are_put_together(read_all: ReadAll) -> None:
    first, second = read_all(WikiTextSource(), "wiki.train.tokens", TWO.encode())
    assert first.text == (
        "# First one\n\nIt has a <unk>. It ends.\n\nSecond, half-done.\n\n"
        "## Part\n\n1,000.5 km.\n\nx = 3 = y\n"
    )
    assert second.text == "# Second <unk>\n\nOnly <unk>.\n"


def test_whole_sentences(read_all: ReadAll) -> None:
    [first] = read_all(WholeSentencesSource(), "wiki.train.tokens", TWO.encode())
    assert first.text.startswith("# First one\n\nIt ends.\n\nSecond, half-done.\n")


def test_a_title_stands_between_blank_lines(read_all: ReadAll) -> None:
    text = " = Title = \n \n The sum \n = 3 = \n is small . \n \n = 4 = \n is less . \n"
    [article] = read_all(WikiTextSource(), "x.txt", text.encode())
    assert article.text.startswith("# Title\n\nThe sum\n\n")


def test_bad_bytes_end_one_article(read_all: ReadAll) -> None:
    content = TWO.encode().replace(b"Second , half", b"\xff , half")
    first, second = read_all(WikiTextSource(), "x.tokens", content)
    assert (first.reason, second.reason) == ("invalid_utf8", "")


@given(
    articles=st.lists(st.integers(0, 60), max_size=10),
    part_bytes=st.integers(1, 200),
)
def test_parts_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, articles: list[int], part_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.tokens"
    body = [f" \n = No {n} = \n \n {'x ' * size}\n" for n, size in enumerate(articles)]
    path.write_text("".join(body))
    file, source, spec = SourceFile("x", path), WikiTextSource(part_bytes), SourceSpec(path="x")
    in_parts = [d for part in source.parts(spec, file) for d in source.read(spec, file, part)]
    assert in_parts == list(source.read(spec, file, Part()))
    assert len(in_parts) == len(articles)


@pytest.mark.parametrize(
    ("tokens", "typed"),
    [
        ('He said , " Stop ! " , and left .', 'He said, "Stop!", and left.'),
        ("They don 't , it 's ( so ) .", "They don't, it's (so)."),
        ("the dogs ' tails", "the dogs' tails"),
        ("he said ' no ' twice", "he said 'no' twice"),
        ("$ 5 @.@ 50 , 20 % and 5 – 6 km", "$5.50, 20% and 5–6 km"),
        ("20 ° C at 40 ° N", "20 °C at 40° N"),
        ("one — two / three ; well @-@ known", "one—two/three; well-known"),
        ('a lone " mark', 'a lone " mark'),
        ("the .NET one ... ends", "the .NET one... ends"),
        ('( " quoted " )', '("quoted")'),
        ("", ""),
    ],
)
def test_detokenise(tokens: str, typed: str) -> None:
    assert detokenise(tokens) == typed


@given(st.text(alphabet="ab \"'().,@-–—/°C$", max_size=60))
def test_only_spaces_and_marks_go(line: str) -> None:
    bare = detokenise(line).replace(" ", "").replace("@", "")
    assert bare == line.replace(" ", "").replace("@", "")


def test_lookback_sees_the_blank_line_before(tmp_path: Path) -> None:
    path = tmp_path / "x.tokens"
    path.write_text(f" \n = A = \n \n {'x' * 9000}\n \n = B = \n \n y \n")
    place = path.read_bytes().index(b" = B")
    source, file, spec = WikiTextSource(), SourceFile("x", path), SourceSpec(path="x")
    texts = [d.text for d in source.read(spec, file, Part(place, None))]
    assert texts == ["# B\n\ny\n"]
    assert list(source.read(spec, file, Part(place + 1, None))) == []
