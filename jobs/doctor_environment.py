"""Checks of `mulm doctor` on environment variables that lead programs astray."""

from __future__ import annotations

from actors.cluster_info import read_info
from jobs.config_explain import unknown_variables
from jobs.doctor_application import is_up
from jobs.doctor_finding import Surroundings, Verdict, fault, fine, warning
from mulm.errors import MulmError
from mulm.settings import Settings

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_LOOPBACK = frozenset({"127.0.0.1", "localhost"})


def proxies(machine: Surroundings) -> Verdict:
    """Whether a proxy gets what programs send to this very machine."""
    proxy = next((name for name in _PROXIES if machine.env.get(name)), None)
    if proxy is None:
        return fine("none")
    spared = machine.env.get("no_proxy") or machine.env.get("NO_PROXY") or ""
    hosts = {part.strip().lower() for part in spared.split(",")}
    if "*" in hosts or hosts >= _LOOPBACK or "127.0.0.0/8" in hosts:
        return fine(f"{proxy}, but not for this machine")
    return warning(
        f"{proxy} also catches 127.0.0.1: curl and OpenAI's clients do not reach the application",
        f"export no_proxy={','.join(sorted(_LOOPBACK))}{',' * bool(spared)}{spared}",
    )


def ray(machine: Surroundings) -> Verdict:
    """Whether `ray` commands in this shell go to this application."""
    env, wrong = machine.env, {}
    if env.get("RAY_ADDRESS"):
        wrong["RAY_ADDRESS"] = "names another cluster"
    if env.get("RAY_AUTH_MODE", "token") != "token":
        wrong["RAY_AUTH_MODE"] = "is not `token`"
    if env.get("RAY_AUTH_TOKEN_PATH", str(machine.home.ray_token)) != str(machine.home.ray_token):
        wrong["RAY_AUTH_TOKEN_PATH"] = "is the token of another home"  # noqa: S105
    info = read_info(machine.home)
    if info is not None and is_up(machine):
        ours = {
            "RAY_API_SERVER_ADDRESS": info.dashboard_url,
            "OPENAI_BASE_URL": f"{info.api_url}/v1",
        }
        here = {name: url for name, url in ours.items() if "127.0.0.1" in env.get(name, "")}
        wrong |= {name: f"is not {url}" for name, url in here.items() if env[name] != url}
    if not wrong:
        return fine("nothing leads astray")
    return warning(
        "; ".join(f"{name} {why}" for name, why in wrong.items()),
        f'unset {" ".join(wrong)}; then eval "$(mulm env)"',
    )


def settings(machine: Surroundings) -> Verdict:
    """Whether the MULM_ variables are known and fit."""
    try:
        Settings.from_env(machine.env)
    except MulmError as error:
        return fault(error.message, error.hint)
    unknown = unknown_variables(machine.env)
    if unknown:
        name, hint = next(iter(unknown.items()))
        return warning(f"nothing reads {', '.join(unknown)}", f"{name}: {hint}")
    return fine("all are known and fit")


def text_encoding(machine: Surroundings) -> Verdict:
    """Whether names and texts are UTF-8."""
    wrong = {
        what: name
        for what, name in machine.encodings.items()
        if name.lower().replace("-", "") != "utf8"
    }
    if not wrong:
        return fine("UTF-8")
    told = ", ".join(f"{what}: {name}" for what, name in wrong.items())
    return fault(f"text is not UTF-8 here ({told})", "export LANG=C.UTF-8, or PYTHONUTF8=1")
