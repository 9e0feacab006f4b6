"""What a machine that was not taken in tells its user."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.member import Member, MemberInfo
from jobs.join_trouble import explained, log_lines
from mulm.home import Home


@pytest.fixture
def member(home: Home, tmp_path: Path) -> Member:
    info = MemberInfo(
        id="m1", head="127.0.0.1:1", name="x", trust="family", pid=1, started_s=0.0,
        temp_dir=str(tmp_path),
    )  # fmt: skip
    return Member(home, info)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: ...", "this token"),
        ("rpc_client.h:153: Failed to connect to GCS at address 10.77.0.1:6378", "answer"),
        ("Failed to start the grpc server. The specified port is 7777. This", "that port"),
        ("the head says: health check failed due to missing too many heartbeats", "does not reach"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("Exception: The current node timed out during startup.", "too busy"),
        ("something of another world", "no cause that is known"),
    ],
)
def test_the_fix_comes_first_and_the_log_below(line: str, word: str) -> None:
    first, *rest = explained(["before", line, "after"]).splitlines()
    assert word in first
    assert rest == ["before", line, "after"]


def test_frames_of_a_stack_and_controls_are_left_out(member: Member) -> None:
    member.log.write_text("".join(f"line {n}\n" for n in range(20)))
    with member.log.open("a") as file:
        file.write('Traceback (most recent call last):\n  File "x"\n    ^^^\n\nEnd: \x1b[31mred\n')
    raylet = Path(member.info.temp_dir) / "ray" / "session_2026" / "logs" / "raylet.out"
    raylet.parent.mkdir(parents=True)
    raylet.write_text(
        "[2026 I 1 1] fine\n[2026 C 12 12] (raylet) grpc_server.cc: bad\n/lib/x main\n"
    )
    lines = log_lines(member)
    assert lines[0] == "[2026 C 12 12] (raylet) grpc_server.cc: bad"
    assert lines[-1] == "End: \u241b[31mred"
    assert len(lines) == 7


def test_a_machine_without_any_log_says_nothing(member: Member) -> None:
    assert log_lines(member) == []
