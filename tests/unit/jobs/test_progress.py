import io

import pytest

from jobs.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stage_is_one_line_with_its_time() -> None:
    stream = io.StringIO()
    Progress(stream).event("stage", {"name": "documents", "seconds": 1.25, "text": "7 files"})
    assert stream.getvalue() == "documents       1.2 s  7 files\n"


def test_without_a_terminal_progress_is_a_line_every_few_seconds() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    for second in range(11):
        now[0] = float(second)
        progress.event("metric", {"step": second, "loss": 3.0 - second / 10})
        progress.event("progress", {"stage": "train", "done": second, "total": 10, "unit": "steps"})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  train: 0/10 steps, loss 3.000"
    assert lines[1] == "  train: 5/10 steps, loss 2.500"
    assert len(lines) == 3


def test_speed_and_time_left_are_told() -> None:
    stream = io.StringIO()
    values = {"done": 20.0, "total": 62.5, "unit": "MB", "rate_per_s": 8.51, "eta_s": 5.2}
    Progress(stream).event("progress", {"stage": "documents", **values})
    assert stream.getvalue() == "  documents: 20.0/62.5 MB, 8.51 MB/s, 5 s left\n"


def test_on_a_terminal_one_bar_is_drawn_for_a_stage_and_taken_away() -> None:
    stream = Terminal()
    progress = Progress(stream)
    for done in (3, 4, 5):
        progress.event("progress", {"stage": "train", "done": done, "total": 10, "unit": "step"})
    shown = stream.getvalue()
    assert "3/10" in shown
    assert "5/10" in shown
    assert shown.count(" 0/10") <= 1, "the bar was made anew at every event"
    progress.line("done")
    assert stream.getvalue().endswith("done\n")


def test_a_note_is_not_repeated() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for text in ("starting", "starting", "ready", " "):
        progress.note(text)
    assert stream.getvalue() == "  starting\n  ready\n"


def test_a_timed_stage_that_fails_is_not_told_as_finished() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = Progress(stream, clock=lambda: now[0])
    with progress.timed("up") as say:
        now[0] = 2.0
        say("ready")
    assert stream.getvalue() == "up              2.0 s  ready\n"
    with pytest.raises(KeyError), progress.timed("down"):
        raise KeyError
    assert "down" not in stream.getvalue()


def test_silent_kinds_print_nothing() -> None:
    stream = io.StringIO()
    Progress(stream).event("checkpoint", {"step": 3})
    assert stream.getvalue() == ""


def test_what_a_run_is_worth_is_shown_behind_its_progress() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    numbers = {"loss": 2.5, "tokens_per_s": 12345.6, "mfu": 0.4567, "memory_bytes": 9, "lr": 1.0}
    progress.event("metric", {"step": 5} | numbers)
    progress.event("metric", {"step": 5, "validation_bits_per_byte": 2.0714})
    values = {"done": 5, "total": 10, "unit": "steps", "rate_per_s": 2.0, "eta_s": 2.5}
    progress.event("progress", {"stage": "train"} | values)
    assert stream.getvalue() == (
        "  train: 5/10 steps, 2 steps/s, 2 s left,"
        " loss 2.500, val bits per byte 2.071, 12,346 tokens/s, MFU 45.7%\n"
    )


def test_a_sample_is_one_line_without_control_characters() -> None:
    stream = io.StringIO()
    said = {"prompt": "Once", "text": "upon\n a\x1b[31m time" + "!" * 200}
    Progress(stream).event("sample", {"step": 5} | said)
    assert stream.getvalue() == f"  step 5: Once [upon a␛[31m time{'!' * 84}]\n"


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("log", {"text": "export to wandb: \x1b]0;evil\x07"}),
        ("stage", {"name": "evaluate", "seconds": 1.0, "text": "\x1b[2J"}),
    ],
)
def test_foreign_words_change_no_terminal(kind: str, data: dict[str, object]) -> None:
    stream = io.StringIO()
    Progress(stream).event(kind, data)
    assert "␛" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_request_to_pause_is_told_while_the_run_still_works() -> None:
    stream = io.StringIO()
    Progress(stream).event("phase", {"phase": "pausing"})
    assert "asked to pause" in stream.getvalue()
    Progress(stream).event("phase", {"phase": "running"})
    assert stream.getvalue().count("\n") == 1
