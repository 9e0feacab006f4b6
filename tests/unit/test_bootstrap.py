"""The decisions of bootstrap.py: which torch, what to say when something is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
assert _SPEC
assert _SPEC.loader
bootstrap = importlib.util.module_from_spec(_SPEC)
sys.modules["bootstrap"] = bootstrap
_SPEC.loader.exec_module(bootstrap)

CPU = bootstrap.Torch("2.13.0+cpu", is_cuda=False)
CUDA = bootstrap.Torch("2.13.0", is_cuda=True)
RANGE = ">=2.13,<2.15"


class Index:
    """A stand-in for pip: what it offers for each requirement, and what it was asked."""

    def __init__(self, **offers: bootstrap.Torch) -> None:
        self.offers = offers
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, candidate: bootstrap.Candidate) -> bootstrap.Torch | None:
        self.asked.append(candidate.arguments)
        if bootstrap.CPU_INDEX in candidate.arguments:
            return self.offers.get("cpu_index")
        kind = "local" if "+cpu" in candidate.arguments[0] else "plain"
        if "===" in candidate.arguments[0]:
            kind = "exact"
        return self.offers.get(kind)


def resolve(index: Index, request: str = "", gpu: bool = False, system: str = "linux") -> str:
    candidates = bootstrap.torch_candidates("2.13.0", request, gpu, system)
    return " ".join(bootstrap.resolve_torch(candidates, index, request).arguments)


# Which torch


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("2.13.0", True),
        ("2.13", True),
        ("2.13.0+cpu", True),
        ("2.14.1+cu130", True),
        ("2.15.0", False),
        ("2.12.9", False),
        ("2.13.0a0+git1234", False),
        ("2.14.0.dev20260101", False),
    ],
)
def test_range_of_torch(version: str, fits: bool) -> None:
    assert bootstrap.satisfies(version, RANGE) is fits


def test_pin_and_range_come_from_the_project() -> None:
    pin, required = bootstrap.torch_requirement(ROOT)
    assert bootstrap.satisfies(pin, required)


def test_wheel_folder_with_a_cpu_build_is_used_as_it_is() -> None:
    assert resolve(Index(local=CPU, plain=CPU)) == "torch==2.13.0+cpu"


def test_plain_version_is_taken_where_it_is_a_cpu_build() -> None:
    assert resolve(Index(plain=bootstrap.Torch("2.13.0", False))) == "torch==2.13.0"


def test_without_gpu_a_cuda_build_is_never_taken() -> None:
    index = Index(plain=CUDA, cpu_index=CPU)
    assert resolve(index) == f"torch==2.13.0+cpu --extra-index-url {bootstrap.CPU_INDEX}"


def test_own_configuration_is_asked_before_any_other_address() -> None:
    index = Index(cpu_index=CPU)
    resolve(index)
    assert [bootstrap.CPU_INDEX in arguments for arguments in index.asked] == [False, False, True]


def test_without_gpu_and_cpu_build_it_stops_and_names_the_ways_out() -> None:
    with pytest.raises(bootstrap.ProblemError, match="only the CUDA build") as error:
        resolve(Index(plain=CUDA))
    assert "MULM_TORCH=cuda" in error.value.do
    assert "PIP_FIND_LINKS" in error.value.do


def test_no_network_is_said_as_such() -> None:
    with pytest.raises(bootstrap.ProblemError, match="finds no torch") as error:
        resolve(Index())
    assert "network" in error.value.do


def test_gpu_gets_the_cuda_build() -> None:
    assert resolve(Index(plain=CUDA), gpu=True) == "torch==2.13.0"


def test_gpu_gets_the_cuda_build_although_a_cpu_build_sorts_higher() -> None:
    assert resolve(Index(plain=CPU, exact=CUDA), gpu=True) == "torch===2.13.0"


def test_gpu_without_cuda_build_still_gets_a_torch() -> None:
    assert resolve(Index(plain=CPU), gpu=True) == "torch==2.13.0"


def test_cuda_that_was_asked_for_is_not_replaced_by_cpu() -> None:
    with pytest.raises(bootstrap.ProblemError, match="finds no torch"):
        resolve(Index(plain=CPU), request="cuda")


def test_cpu_can_be_asked_for_beside_a_gpu() -> None:
    assert resolve(Index(local=CPU), request="cpu", gpu=True) == "torch==2.13.0+cpu"


def test_mac_takes_the_plain_version() -> None:
    assert resolve(Index(plain=CPU), system="darwin") == "torch==2.13.0"


def test_own_requirement_is_passed_on() -> None:
    index = Index(plain=CPU)
    assert resolve(index, request="torch==2.14.0") == "torch==2.14.0"


@pytest.mark.parametrize(
    ("installed", "request_", "kept"),
    [
        (CPU, "", True),
        (CUDA, "", True),
        (CPU, "cpu", True),
        (CUDA, "cpu", False),
        (CPU, "cuda", False),
        (CPU, "torch==2.14.0", False),
        (bootstrap.Torch("2.9.0", False), "", False),
    ],
)
def test_installed_torch_is_kept(installed: bootstrap.Torch, request_: str, kept: bool) -> None:
    assert bootstrap.can_keep(installed, RANGE, request_) is kept


def test_torch_of_the_system_counts_only_where_a_new_venv_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap.importlib.metadata, "version", lambda _: "2.14.0+cu130")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert bootstrap.system_torch(RANGE) == "2.14.0+cu130"
    assert bootstrap.system_torch(">=2.15,<2.16") is None
    monkeypatch.setattr(sys, "prefix", "/some/venv")
    assert bootstrap.system_torch(RANGE) is None


@pytest.mark.parametrize(
    ("version", "requires", "cuda"),
    [
        ("2.13.0+cpu", ["filelock", "sympy>=1.13"], False),
        ("2.13.0", ["filelock", 'nvidia-cudnn-cu13==9; platform_system == "Linux"'], True),
        ("2.13.0", ["cuda-toolkit[cublas]==13.0"], True),
        ("2.13.0+cu130", [], True),
        ("2.13.0+rocm7", [], True),
    ],
)
def test_build_is_read_from_the_report(version: str, requires: list[str], cuda: bool) -> None:
    metadata = {"name": "torch", "version": version, "requires_dist": requires}
    report = {"install": [{"metadata": metadata}]}
    assert bootstrap.reported_torch(report) == bootstrap.Torch(version, cuda)


def test_refused_cuda_build_is_recognised() -> None:
    printed = ["The conflict is caused by:", "    torch 2.13.0 depends on triton==3.7.1; ..."]
    assert bootstrap.refused_torch(printed) == CUDA
    assert bootstrap.refused_torch(["ERROR: No matching distribution found"]) is None


def test_report_without_torch() -> None:
    assert bootstrap.reported_torch({"install": []}) is None


# What stands in the way


def test_old_python_is_told_what_to_install() -> None:
    problem = bootstrap.unsupported_python((3, 9))
    assert "3.9 is not supported" in str(problem)
    assert "apt-get install python3.11" in problem.do


def test_missing_venv_names_the_package() -> None:
    assert "sudo apt-get install python3.12-venv" in bootstrap.missing_venv((3, 12)).do


def test_small_disk() -> None:
    assert bootstrap.space_problem(Path("x"), free=5, need=4) is None
    problem = bootstrap.space_problem(Path("x"), free=1_500_000_000, need=3_000_000_000)
    assert str(problem) == "1.5 GB are free in x, about 3 GB are needed"


def test_cuda_needs_more_space_than_cpu() -> None:
    assert bootstrap.SPACE["cuda"][0] > bootstrap.SPACE["cpu"][0]
    assert bootstrap.wants_cuda("", gpu=True)
    assert not bootstrap.wants_cuda("cpu", gpu=True)


def test_busy_port_is_named_with_its_owner_and_the_way_out() -> None:
    warning = bootstrap.port_warning("MULM_HTTP_PORT", "", 8000, lambda _: "nginx (process 7)")
    assert warning is not None
    assert "8000 is in use by nginx (process 7)" in warning
    assert "MULM_HTTP_PORT" in warning


def test_free_port_and_any_port_are_silent() -> None:
    assert bootstrap.port_warning("X", "9000", 8000, lambda _: None) is None
    assert bootstrap.port_warning("X", "0", 8000, lambda _: "somebody") is None


@pytest.mark.parametrize("text", ["http", "-1", "70000"])
def test_port_that_is_none(text: str) -> None:
    assert "not a port number" in str(bootstrap.port_warning("X", text, 8000, lambda _: None))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
def test_owner_of_a_port_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert f"(process {os.getpid()})" in str(bootstrap.port_owner(server.getsockname()[1]))


def test_hint_follows_what_pip_printed() -> None:
    assert "TMPDIR" in bootstrap.hint(["OSError: [Errno 28] No space left on device"])
    assert "bootstrap.log" in bootstrap.hint(["something else"])


# pip or uv, and what is remembered


def test_uv_only_without_pip_settings_of_consequence() -> None:
    assert bootstrap.is_plain("")
    assert bootstrap.is_plain(":env:.disable-pip-version-check='1'\nglobal.timeout='60'")
    assert not bootstrap.is_plain("global.index-url='https://mirror.example/simple'")
    assert not bootstrap.is_plain(":env:.find-links='/wheels'")


def test_constraints_name_the_torch_that_is_here(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("six==1\ntorch==2.13.0\ntqdm==4\n")
    (tmp_path / "venv").mkdir()
    path = Path(bootstrap.lock(tmp_path, tmp_path / "venv", "2.14.1+cu130"))
    assert path.read_text() == "six==1\ntorch==2.14.1+cu130\ntqdm==4\n"


def test_half_installed_packages_are_removed(tmp_path: Path) -> None:
    for name in ("whole-1.dist-info", "torn-2.dist-info", "~id-3.dist-info", "torn"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.dist-info" / "INSTALLER").write_text("pip")
    bootstrap.mend(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torn", "whole-1.dist-info"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose set-up is finished."""
    for name in ("bootstrap.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "mulm"):
        (tmp_path / ".venv" / "bin" / name).touch()
    stamp = {"inputs": bootstrap.inputs(tmp_path, ""), "extra": "dev"}
    bootstrap.write_stamp(tmp_path / ".venv", stamp)
    return tmp_path


def test_second_run_does_nothing_at_once(checkout: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-S", str(checkout / "bootstrap.py"), "--dev"]
    started_s = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started_s < 10


def test_stamp_covers_less_but_not_more(checkout: Path) -> None:
    venv, wanted = checkout / ".venv", bootstrap.inputs(checkout, "")
    assert bootstrap.is_done(venv, wanted, "app")
    bootstrap.write_stamp(venv, {"inputs": wanted, "extra": "app"})
    assert not bootstrap.is_done(venv, wanted, "dev")


def test_changed_lock_request_or_place_is_set_up_anew(checkout: Path) -> None:
    wanted = bootstrap.inputs(checkout, "")
    assert bootstrap.inputs(checkout, "cuda") != wanted
    (checkout / "constraints.txt").write_text("torch==2.14.0\n")
    assert bootstrap.inputs(checkout, "") != wanted


def test_changed_tool_settings_are_no_reason_to_install(checkout: Path) -> None:
    wanted = bootstrap.inputs(checkout, "")
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("\n[tool.other]\nx = 1\n")
    assert bootstrap.inputs(checkout, "") == wanted


def test_torn_stamp_counts_as_none(checkout: Path) -> None:
    (checkout / ".venv" / "bootstrap.json").write_text('{"inp')
    assert not bootstrap.is_done(checkout / ".venv", "x", "app")


def test_unknown_argument() -> None:
    command = [sys.executable, str(ROOT / "bootstrap.py"), "--prod"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--prod" in done.stdout


# The lock


def test_lock_pins_all_that_a_set_up_installs_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    names = {_canonical(pin.partition("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = list(project["dependencies"])
    for extra in ("app", "dev"):
        direct += project["optional-dependencies"][extra]
    wanted = {_canonical(re.split(r"[<>=\[]", line)[0]) for line in direct}
    assert wanted <= names


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
