"""Set-up of a checkout: makes `.venv` and installs the pinned dependencies into it.

`make setup` and `make test` call it before anything is installed, so it needs only the
standard library. Invariants: nothing outside `.venv` is changed, apart from pip's cache;
a run that was interrupted anywhere is finished by the next one; a second run with the same
inputs does nothing; no CUDA build of torch is installed unless a GPU or the user asks for it.
docs/decisions/0006-set-up.md says why it does what it does.

    python3 bootstrap.py          what `mulm` needs
    python3 bootstrap.py --dev    and what the tests and checks need

Environment: MULM_TORCH=cpu|cuda|<pip requirement> chooses the build of torch;
MULM_HTTP_PORT and MULM_DASHBOARD_PORT are the ports that are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))  # what both ray and torch have wheels for
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GB = 1_000_000_000
SPACE = {"cpu": (3 * GB, 1 * GB), "cuda": (10 * GB, 4 * GB), "rest": (2 * GB, 1 * GB)}
OLDEST_PIP = (23, 2)  # the first that reads a wheel's metadata without downloading the wheel
# pip settings that change neither what is installed nor where it comes from
HARMLESS = frozenset(
    (
        "cache-dir", "config-file", "default-timeout", "disable-pip-version-check", "no-color",
        "no-input", "progress-bar", "quiet", "retries", "root-user-action", "timeout", "verbose",
    )
)  # fmt: skip


class ProblemError(Exception):
    """Something that stops the set-up, and exactly what to do about it."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what)
        self.do = do


class Torch(NamedTuple):
    """A build of torch, installed or offered by an index."""

    version: str
    is_cuda: bool


class Candidate(NamedTuple):
    """Arguments for pip that may lead to torch, and the build they are taken for."""

    arguments: tuple[str, ...]
    build: str  # "cpu", "cuda" or "any"


class Environment(NamedTuple):
    """What is found in `.venv`."""

    python: tuple[int, ...]
    pip: tuple[int, ...]
    torch: Torch | None
    site: Path


def main(argv: Sequence[str]) -> int:
    """Set up, and return the exit code: 0, 1 for a problem, 130 after Ctrl-C."""
    unknown = [argument for argument in argv if argument != "--dev"]
    if unknown:
        asks = unknown[0] in ("-h", "--help")
        print(__doc__ if asks else f"setup: unknown argument {unknown[0]!r}; known: --dev")
        return 0 if asks else 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        use_supported_python(argv)
        set_up(Path(__file__).resolve().parent, "dev" if argv else "app", os.environ)
    except ProblemError as problem:
        print(f"setup: {problem}\n  do: {problem.do}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: stopped; the next run continues from here", file=sys.stderr)
        return 130
    return 0


def set_up(root: Path, extra: str, env: Mapping[str, str]) -> None:
    """Bring `.venv` to what pyproject.toml and constraints.txt say; do nothing if it is there."""
    venv = root / ".venv"
    request = env.get("MULM_TORCH", "").strip()
    wanted = inputs(root, request)
    if is_done(venv, wanted, extra):
        return
    check_machine(root, env)
    with only_one(venv):
        if is_done(venv, wanted, extra):  # another process was quicker
            return
        started_s = time.monotonic()
        install(root, venv, extra, request, wanted, Stages(venv / "bootstrap.log"))
        print(f"setup: ready in .venv  {time.monotonic() - started_s:.0f} s", flush=True)


def install(root: Path, venv: Path, extra: str, request: str, wanted: str, stages: Stages) -> None:
    """The stages of a set-up, in order."""
    pin, required = torch_requirement(root)
    gpu = has_gpu()
    system = None if (venv / "pyvenv.cfg").exists() else system_torch(required)
    unfinished = venv / "bootstrap.unfinished"
    make_venv(venv, system is not None, stages)
    found = inspect(venv)
    if unfinished.exists():
        mend(found.site)
        found = inspect(venv)
    unfinished.touch()
    if found.pip < OLDEST_PIP:
        stages.run("newer pip", pip(venv, "install", "--upgrade", "pip"), can_fail=True)

    if found.torch and can_keep(found.torch, required, request):
        check_space(venv, "rest")
        stages.say(f"torch {found.torch.version} is kept")
    else:
        check_space(venv, "cuda" if wants_cuda(request, gpu) else "cpu")
        candidates = torch_candidates(pin, request, gpu, sys.platform)
        chosen = resolve_torch(candidates, lambda c: offered(venv, c, stages), request)
        stages.run("torch", pip(venv, "install", *chosen.arguments, "-c", lock(root, venv, None)))
    torch = inspect(venv).torch
    if torch is None or not satisfies(torch.version, required):
        raise ProblemError(
            f"torch{required} is needed, and {torch.version if torch else 'none'} was installed",
            "set MULM_TORCH to a requirement in that range, or unset it",
        )

    arguments = ["--no-build-isolation", "-c", lock(root, venv, torch.version)]
    arguments += ["-e", f"{root}[{'app,dev' if extra == 'dev' else 'app'}]"]
    stages.run("everything else", installer(venv, stages) + arguments)
    after = inspect(venv).torch
    if after != torch:
        raise ProblemError(
            f"torch {torch.version} was replaced by {after.version if after else 'nothing'}",
            "remove .venv and run again; if it comes back, report it with .venv/bootstrap.log",
        )
    stages.run("check", [python(venv), "-c", "import torch, ray, tokenizers, pyarrow"])
    unfinished.unlink()
    write_stamp(venv, {"inputs": wanted, "extra": extra, "torch": torch.version})


# What stands in the way ------------------------------------------------------------------


def use_supported_python(argv: Sequence[str]) -> None:
    """Go on under a supported interpreter: this one, or another one on the PATH."""
    if sys.version_info[:2] in PYTHONS:
        return
    for major, minor in PYTHONS:
        path = shutil.which(f"python{major}.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            os.execv(path, [path, __file__, *argv])
    raise unsupported_python(sys.version_info[:2])


def unsupported_python(version: tuple[int, ...]) -> ProblemError:
    """The problem of an interpreter that torch or ray have no wheels for."""
    (_, oldest), (_, newest) = PYTHONS[0], PYTHONS[-1]
    return ProblemError(
        f"Python {version[0]}.{version[1]} is not supported; 3.{oldest} to 3.{newest} are",
        f"install one of them (Debian, Ubuntu: sudo apt-get install python3.{oldest} "
        f"python3.{oldest}-venv; macOS: brew install python@3.12) and run again, "
        "or name it: make setup PYTHON=/path/to/python3.12",
    )


def check_machine(root: Path, env: Mapping[str, str]) -> None:
    """Raise ProblemError for what would fail later; warn of busy ports."""
    if sys.platform == "win32":
        raise ProblemError("Windows itself is not supported", "use WSL 2 (wsl --install)")
    if not os.access(root, os.W_OK):
        raise ProblemError(
            f"no permission to write in {root}",
            "clone the repository into a folder of your own",
        )
    has_venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    if not has_venv and not (root / ".venv" / "pyvenv.cfg").exists():
        raise missing_venv(sys.version_info[:2])
    if not (root / ".venv" / "pyvenv.cfg").exists():
        check_space(root, "rest")  # what is needed beside torch; exactly once its build is known
    for name, default in (("MULM_HTTP_PORT", 8000), ("MULM_DASHBOARD_PORT", 8265)):
        warning = port_warning(name, env.get(name, ""), default, port_owner)
        if warning:
            print(f"setup: {warning}", file=sys.stderr)


def missing_venv(version: tuple[int, ...]) -> ProblemError:
    """The problem of a Python that was packaged without venv, as on Debian."""
    name = f"python{version[0]}.{version[1]}"
    return ProblemError(
        f"this Python ({sys.executable}) cannot make virtual environments",
        f"Debian, Ubuntu: sudo apt-get install {name}-venv; "
        f"elsewhere install the package that holds {name}'s ensurepip",
    )


def check_space(venv: Path, kind: str) -> None:
    """Raise ProblemError if the disk cannot hold the installation or the downloads."""
    for folder, need in zip((venv, Path(tempfile.gettempdir())), SPACE[kind], strict=True):
        problem = space_problem(folder, shutil.disk_usage(folder).free, need)
        if problem:
            raise problem


def space_problem(folder: Path, free: int, need: int) -> ProblemError | None:
    """The problem of `free` bytes in `folder` where `need` are needed, if it is one."""
    if free >= need:
        return None
    return ProblemError(
        f"{free / GB:.1f} GB are free in {folder}, about {need / GB:.0f} GB are needed",
        "free some space, or for downloads set TMPDIR to a folder on a larger disk",
    )


def port_warning(
    name: str, text: str, default: int, owner: Callable[[int], str | None]
) -> str | None:
    """A warning if the port that `name` sets cannot be used later; `owner` says by whom."""
    if text and not (text.isdigit() and int(text) < 65536):
        return f"{name}={text!r} is not a port number (0 takes any free port)"
    port = int(text or default)
    who = owner(port) if port else None
    if who is None:
        return None
    return (
        f"warning: port {port} is in use by {who}; unless that is µLM itself, "
        f"stop it or set {name} to another port (0 takes any free one)"
    )


def port_owner(port: int) -> str | None:
    """Who listens on the loopback port: None if it is free, else words."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "nobody, but it is reserved for root"
        except OSError:
            return _listener(port)
    return None


def _listener(port: int) -> str:
    """The process that listens on `port`, as far as /proc shows it to us."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if os.readlink(link) in sockets:
                name = (link.parents[1] / "comm").read_text().strip()
                return f"{name} (process {link.parts[2]})"
    return "another process"


# Which torch -----------------------------------------------------------------------------


def torch_requirement(root: Path) -> tuple[str, str]:
    """The version that constraints.txt pins, and the range that pyproject.toml allows."""
    pinned = re.search(r"^torch==(\S+)$", (root / "constraints.txt").read_text("utf-8"), re.M)
    allowed = re.search(r'"torch([^"]+)"', (root / "pyproject.toml").read_text("utf-8"))
    if not pinned or not allowed:
        raise ProblemError("constraints.txt or pyproject.toml names no torch", "restore the file")
    return pinned[1], allowed[1]


def satisfies(version: str, required: str) -> bool:
    """Whether a release such as `2.13.0+cpu` is in a range such as `>=2.13,<2.15`."""
    release = re.fullmatch(r"(\d+(?:\.\d+)*)(?:\+.*)?", version)
    if not release:
        return False  # a pre-release is not what was tested
    number = _numbers(release[1])
    for clause in required.split(","):
        sign, _, bound = re.split(r"(?<=[<>=])(?![<>=])()", clause.strip(), maxsplit=1)
        at = _numbers(bound)
        if not {">=": number >= at, "<": number < at, "==": number == at}[sign]:
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """`2.13.0` as numbers, without trailing zeros, so that 2.13 equals 2.13.0."""
    return tuple(int(part) for part in re.sub(r"(\.0)+$", "", text).split("."))


def wants_cuda(request: str, gpu: bool) -> bool:
    """Whether a CUDA build is looked for."""
    return request == "cuda" or (not request and gpu)


def can_keep(installed: Torch, required: str, request: str) -> bool:
    """Whether an installed torch may stay: in range, and of the build that was asked for."""
    fits = {"": True, "cpu": not installed.is_cuda, "cuda": installed.is_cuda}
    return satisfies(installed.version, required) and fits.get(request, False)


def torch_candidates(pin: str, request: str, gpu: bool, system: str) -> list[Candidate]:
    """What to ask pip for, in order; the first that offers the right build is installed.

    The plain version is the CUDA build on PyPI for Linux, and the CPU build for macOS; the
    local version `+cpu` exists on PyTorch's own index, on mirrors of it and in wheel folders.
    """
    plain = f"torch=={pin}"
    if request not in ("", "cpu", "cuda"):
        return [Candidate((request,), "any")]
    if system == "darwin":
        return [Candidate((plain,), "any")]
    if request == "cuda":
        return [Candidate((plain,), "cuda"), Candidate((f"torch==={pin}",), "cuda")]
    if wants_cuda(request, gpu):
        return [*torch_candidates(pin, "cuda", gpu, system), Candidate((plain,), "any")]
    return [
        Candidate((f"{plain}+cpu",), "cpu"),
        Candidate((plain,), "cpu"),
        Candidate((f"{plain}+cpu", "--extra-index-url", CPU_INDEX), "cpu"),
    ]


def resolve_torch(
    candidates: Iterable[Candidate], offer: Callable[[Candidate], Torch | None], request: str
) -> Candidate:
    """The first candidate for which `offer` finds the right build of torch.

    Raises:
        ProblemError: if none does, with what the user can set.
    """
    cuda_instead = False
    for candidate in candidates:
        torch = offer(candidate)
        if torch is None:
            continue
        if candidate.build in ("any", "cuda" if torch.is_cuda else "cpu"):
            return candidate
        cuda_instead = cuda_instead or torch.is_cuda
    if cuda_instead:
        raise ProblemError(
            "pip offers only the CUDA build of torch (several GB), and there is no usable GPU "
            f"here; the CPU build at {CPU_INDEX} could not be reached",
            "allow that address, or put a CPU wheel of torch where pip finds it "
            "(PIP_FIND_LINKS=folder or PIP_EXTRA_INDEX_URL=mirror), "
            "or accept the CUDA build: MULM_TORCH=cuda make setup",
        )
    raise ProblemError(
        f"pip finds no torch ({request or 'cpu'})",
        "check the network, the proxy and pip's configuration (pip config list); "
        "pip's own words are in .venv/bootstrap.log; "
        "MULM_TORCH=<requirement, wheel or URL> names another torch",
    )


def offered(venv: Path, candidate: Candidate, stages: Stages) -> Torch | None:
    """What pip would install for the candidate; None if it finds nothing. Installs nothing.

    A dry run downloads the wheel. So that hundreds of megabytes of CUDA are not fetched only
    to be refused, a CPU build is asked for under a constraint that a CUDA build cannot meet:
    pip then stops at the wheel's metadata, where the index serves that by itself.
    """
    arguments = ["install", "--dry-run", "--ignore-installed", "--retries", "1"]
    with tempfile.TemporaryDirectory() as folder:
        report, refused = Path(folder) / "report.json", Path(folder) / "refused.txt"
        refused.write_text("triton<0\n", "utf-8")
        arguments += ["-c", str(refused)] if candidate.build == "cpu" else ["--no-deps"]
        command = pip(venv, *arguments, "--report", str(report), *candidate.arguments)
        where = " at pytorch.org" if CPU_INDEX in candidate.arguments else ""
        title = f"looking for {candidate.arguments[0]}{where}"
        if stages.run(title, command, can_fail=True):
            return reported_torch(json.loads(report.read_text("utf-8")))
    return refused_torch(stages.printed)


def refused_torch(printed: Sequence[str]) -> Torch | None:
    """The CUDA build that pip found and refused, according to what it printed."""
    for line in printed:
        found = re.search(r"\btorch (\S+) depends on triton", line)
        if found:
            return Torch(found[1], is_cuda=True)
    return None


def reported_torch(report: Mapping[str, object]) -> Torch | None:
    """The torch in a report of `pip install --dry-run --report`."""
    installs = report.get("install")
    for item in installs if isinstance(installs, list) else []:
        metadata = item["metadata"]
        if metadata["name"] == "torch":
            requires = metadata.get("requires_dist", [])
            return Torch(metadata["version"], is_cuda(metadata["version"], requires))
    return None


def is_cuda(version: str, requires: Iterable[str]) -> bool:
    """Whether a torch is a GPU build: its local version or its requirements say so."""
    heavy = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b", re.I)
    local = version.partition("+")[2]
    return local.startswith(("cu", "rocm", "xpu")) or any(heavy.match(name) for name in requires)


def has_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, errors="replace", timeout=20
        )
        return listed.returncode == 0 and re.search(r"^GPU \d+:", listed.stdout, re.M) is not None
    return False


def system_torch(required: str) -> str | None:
    """The torch of this interpreter, if it is in range and a new venv could see it."""
    if sys.prefix != sys.base_prefix:
        return None  # a venv made from a venv sees the base interpreter's packages only
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("torch")
        return version if satisfies(version, required) else None
    return None


# The virtual environment -----------------------------------------------------------------


def python(venv: Path) -> str:
    """The interpreter of the environment."""
    return str(venv / "bin" / "python")


def pip(venv: Path, *arguments: str) -> list[str]:
    """A command of the environment's own pip."""
    return [python(venv), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def make_venv(venv: Path, sees_system: bool, stages: Stages) -> None:
    """Make the environment, or finish one that has no working pip; keep one that works."""
    has_pip = "import importlib.metadata as m, pip._internal.cli.main; m.version('pip')"
    if not (venv / "bin" / "python").exists():  # absent, or a link to a Python that is gone
        for broken in (venv / "bin", venv / "lib"):
            shutil.rmtree(broken, ignore_errors=True)
    elif (venv / "pyvenv.cfg").exists() and stages.works([python(venv), "-I", "-c", has_pip]):
        return
    options = ["--system-site-packages"] if sees_system else []
    stages.run("virtual environment", [sys.executable, "-m", "venv", *options, str(venv)])


def inspect(venv: Path) -> Environment:
    """What is in the environment, asked of its own interpreter (which imports no torch)."""
    program = (
        "import json, sys, sysconfig, importlib.metadata as m\n"
        "t = next(iter(m.distributions(name='torch')), None)\n"
        "print(json.dumps([sys.version_info[:3], m.version('pip'),"
        " t and [t.version, t.requires or []], sysconfig.get_path('purelib')]))"
    )
    done = subprocess.run([python(venv), "-I", "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise ProblemError(
            f".venv does not work: {done.stderr.strip()[-200:]}", "remove .venv and run again"
        )
    version, pip_version, torch, site = json.loads(done.stdout)
    if tuple(version[:2]) not in PYTHONS:
        raise ProblemError(
            f".venv is of Python {version[0]}.{version[1]}, which is not supported",
            "remove .venv and run again",
        )
    return Environment(
        python=tuple(version),
        pip=tuple(int(part) for part in re.findall(r"\d+", pip_version)[:2]),
        torch=torch and Torch(torch[0], is_cuda(torch[0], torch[1])),
        site=Path(site),
    )


def mend(site: Path) -> None:
    """Remove the traces of packages whose installation was cut short, so that pip redoes them.

    pip and uv write INSTALLER last; `~name` is what pip put aside while replacing `name`.
    """
    for trace in [*site.glob("*.dist-info"), *site.glob("~*")]:
        if trace.name.startswith("~") or not (trace / "INSTALLER").exists():
            shutil.rmtree(trace, ignore_errors=True)


def lock(root: Path, venv: Path, torch_version: str | None) -> str:
    """constraints.txt for this machine: with the torch that is here, or with none."""
    pinned = "" if torch_version is None else f"torch=={torch_version}"
    text = (root / "constraints.txt").read_text("utf-8")
    path = venv / "constraints.txt"
    path.write_text(re.sub(r"^torch==.*$", pinned, text, flags=re.M), "utf-8")
    return str(path)


def installer(venv: Path, stages: Stages) -> list[str]:
    """`uv pip install` when it would do exactly what pip does, else `pip install`.

    uv reads none of pip's settings and sees no packages of the system's Python.
    """
    uv = shutil.which("uv")
    sees_system = "include-system-site-packages = true" in (venv / "pyvenv.cfg").read_text("utf-8")
    if not uv or sees_system:
        return pip(venv, "install")
    settings = subprocess.run(pip(venv, "config", "list"), capture_output=True, text=True)
    if settings.returncode or not is_plain(settings.stdout):
        stages.say("pip is used and not uv: pip has settings that uv does not read")
        return pip(venv, "install")
    return [uv, "pip", "install", "--python", python(venv)]


def is_plain(settings: str) -> bool:
    """Whether the output of `pip config list` has nothing that changes what is installed."""
    names = (line.partition("=")[0].rpartition(".")[2] for line in settings.splitlines())
    return all(name.strip() in HARMLESS for name in names)


# Running, remembering --------------------------------------------------------------------


class Stages:
    """Runs commands, a line per stage; what they print goes to the log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._scratch = log.parent / "tmp"  # so that an interrupted pip leaves nothing in /tmp
        self._live = sys.stdout.isatty()
        self.printed: list[str] = []  # by the last stage
        log.write_text("", "utf-8")

    def say(self, text: str) -> None:
        """One line for the user."""
        print(f"setup: {text}", flush=True)

    def works(self, command: Sequence[str]) -> bool:
        """Whether the command exits with 0; silent."""
        return subprocess.run(command, capture_output=True).returncode == 0

    def run(self, title: str, command: Sequence[str], can_fail: bool = False) -> bool:
        """Run one stage; whether it succeeded.

        Raises:
            ProblemError: if it failed and may not, with the last lines it printed.
        """
        started_s = time.monotonic()
        self.printed = lines = [""]
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            code = self._follow(command, title, lines, log.write)
        took = f"{time.monotonic() - started_s:.0f} s"
        if code == 0 or can_fail:
            if self._live:
                print("\r\x1b[K", end="")
            self.say(f"{title}  {took}" if code == 0 else f"{title}  {took}, not there")
            return code == 0
        last = "\n".join(f"  | {line}" for line in lines[-8:] if line)
        raise ProblemError(f"{title} failed after {took}\n{last}", hint(lines))

    def _follow(
        self, command: Sequence[str], title: str, lines: list[str], write: Callable[[str], object]
    ) -> int:
        """Run the command to its end, or end it when we are interrupted."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", env={"TMPDIR": str(self._scratch), **os.environ},
        )  # fmt: skip

        def read() -> None:
            for line in process.stdout or ():
                write(line)
                lines.append(line.rstrip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        started_s = shown_s = time.monotonic()
        try:
            while reader.is_alive():
                reader.join(0.2)
                now_s = time.monotonic()
                if now_s - shown_s > (0.2 if self._live else 20):
                    shown_s = now_s
                    self._show(title, now_s - started_s, news(lines))
            return process.wait()
        finally:
            _end(process)
            reader.join(5)
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _show(self, title: str, elapsed_s: float, line: str) -> None:
        """Say that a stage still runs, and what it does."""
        text = f"setup: {title}  {elapsed_s:.0f} s  {line.strip()}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}" if self._live else text[:100], end="", flush=True)
        if not self._live:
            print(flush=True)


def news(lines: Sequence[str]) -> str:
    """The newest line that says what pip does."""
    verbs = ("Collecting", "Downloading", "Installing", "Building", "Preparing")
    return next((line for line in reversed(lines) if line.strip().startswith(verbs)), "")


def hint(lines: Sequence[str]) -> str:
    """What to do about a failure of pip, from what it printed."""
    text = "\n".join(lines[-60:])
    known = (
        ("No space left", "free some space, or set TMPDIR to a folder on a larger disk"),
        ("CERTIFICATE_VERIFY_FAILED", "tell pip your proxy's certificate: PIP_CERT=/path/to.pem"),
        ("ProxyError", "check HTTPS_PROXY, or PIP_PROXY"),
        ("No matching distribution", "check your index (pip config list) and the network"),
        ("Connection", "check the network, or name a mirror: PIP_INDEX_URL=https://..."),
        ("Temporary failure in name", "check the network, or name a mirror: PIP_INDEX_URL=..."),
    )
    for words, advice in known:
        if words in text:
            return f"{advice}; then run again (log: .venv/bootstrap.log)"
    return "read .venv/bootstrap.log, and run again: it continues from here"


def inputs(root: Path, request: str) -> str:
    """A hash of all that decides what is installed, and where."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    relevant = [project["project"], project["build-system"], project["tool"]["setuptools"]]
    text = json.dumps([str(root), request, relevant], sort_keys=True)
    return hashlib.sha256(text.encode() + (root / "constraints.txt").read_bytes()).hexdigest()


def is_done(venv: Path, wanted: str, extra: str) -> bool:
    """Whether a finished set-up of these inputs is in the environment."""
    try:
        stamp = json.loads((venv / "bootstrap.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    is_there = (venv / "bin" / "python").exists() and (venv / "bin" / "mulm").exists()
    return is_there and stamp.get("inputs") == wanted and stamp.get("extra") in (extra, "dev")


def write_stamp(venv: Path, stamp: Mapping[str, str]) -> None:
    """Say that the set-up is finished; the last thing that is written."""
    temporary = venv / "bootstrap.json.new"
    temporary.write_text(json.dumps(stamp), "utf-8")
    temporary.replace(venv / "bootstrap.json")


@contextlib.contextmanager
def only_one(venv: Path) -> Iterator[None]:
    """Hold the set-up's lock: a second set-up waits for the first."""
    import fcntl

    venv.mkdir(exist_ok=True)
    with (venv / "bootstrap.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: another set-up is at work here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end(process: subprocess.Popen[str]) -> None:
    """End a child that still runs: politely, then by force."""
    for send, patience_s in ((process.terminate, 10), (process.kill, 10)):
        if process.poll() is not None:
            return
        send()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
