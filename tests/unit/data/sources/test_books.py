"""Made-up texts with the markers that Project Gutenberg has written over the years."""

from __future__ import annotations

import pytest

from mulm.data.sources.books import BooksSource, strip_gutenberg
from tests.unit.data.sources.conftest import ReadAll

BOOK = "A TALE\n\nby A. Writer\n\n\n\nCHAPTER I\n\nIt began.\n\n\n\nCHAPTER II\n\nIt ended.\n"
SMALL_PRINT = "\n".join(f"Legal words of the small print, line {n}." for n in range(90))

HEADERS = [
    "The Project Gutenberg EBook of A Tale, by A. Writer\n\nThis eBook is for the use of anyone\n\n"
    "Title: A Tale\n\n*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\n\n\n"
    "Produced by Some One and the Online Distributed Proofreading Team\n\n\n\n",
    "\ufeffThe Project Gutenberg eBook of A Tale\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY\nLONG TITLE ***\n\n",
    "***START OF THE PROJECT GUTENBERG EBOOK A TALE***\n\n\nE-text prepared by Some One\n\n\n\n",
    "Project Gutenberg's Etext of A Tale, by A. Writer\n\n"
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\n"
    f"{SMALL_PRINT}\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n",
    f"**The Project Gutenberg Etext of A Tale**\n\n{SMALL_PRINT}\n"
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n\n"
    "This etext was prepared by Some One, somewhere.\n\n\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK 123 ***\n\n[Transcriber's Note: Old spellings [sic]"
    "\nare kept.]\n\n\n",
    "***START OF THE PROJECT GUTENBERG EBOOK A TALE***\n\nTranscriber's Note:\n\n"
    "Spelling is kept.\n\n\n\n",
    "",
]
FOOTERS = [
    "\n\nEnd of the Project Gutenberg EBook of A Tale, by A. Writer\n\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n\n***** This file should be named 1.txt"
    f" or 1.zip *****\n\nUpdated editions will replace the previous one.\n{SMALL_PRINT}\n",
    f"\n\n*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n{SMALL_PRINT}\n",
    f"\n\n***END OF THE PROJECT GUTENBERG EBOOK A TALE***\n\n{SMALL_PRINT}",
    "\n\nEnd of Project Gutenberg's A Tale, by A. Writer\n",
    "\n\nEnd of The Project Gutenberg Etext of A Tale\n\n",
    "\n\nTHE END OF THE PROJECT GUTENBERG ETEXT A TALE\n",
    "\n\n\n\nTranscriber's Notes\n\nOn page 3 a comma was added.\n",
    "\n\n[Transcriber's note: the last page is torn.]\n",
    "",
]


@pytest.mark.parametrize("footer", FOOTERS)
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_is_around_a_book_goes(header: str, footer: str, end: str) -> None:
    text = (header + BOOK + footer).replace("\n", end)
    assert strip_gutenberg(text).strip() == BOOK.strip()


@pytest.mark.parametrize(
    "text",
    [
        BOOK,
        "He said: the end of the project was near.\n" + BOOK,
        "The transcriber sighed.\n\n\n\n" + BOOK,
        "Chapter one.\n\nProduced by his own hand, it was a success.\n\nMore.\n",
        "",
        "\n\n\nDeep\n",
    ],
)
def test_a_text_without_markers_stays(text: str) -> None:
    assert strip_gutenberg(text) == text


def test_notes_and_places_of_pictures_inside() -> None:
    text = (
        "One.\n\n[Illustration]\n\n[Illustration: A map.]\n\nTwo [Transcriber's note: sic] three.\n"
    )
    assert strip_gutenberg(text) == "One.\n\n\n[Illustration: A map.]\n\nTwo  three.\n"


def test_a_book_that_says_it_is_latin_1(read_all: ReadAll) -> None:
    head = "The Project Gutenberg EBook of X\n\nCharacter set encoding: ISO-8859-1\n\n"
    text = f"{head}*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\nUn café.\n"
    [book] = read_all(BooksSource(), "x.txt", text.encode("latin-1"))
    assert (book.text, book.reason) == ("Un café.\n", "")
    [unknown] = read_all(BooksSource(), "x.txt", "Un café.\n".encode("latin-1"))
    assert unknown.reason == "invalid_utf8"
