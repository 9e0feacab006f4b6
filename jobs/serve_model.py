"""Has a model served by the running application, and waits until it answers.

Called by the journey and the demo. All of it is asked of our own HTTP API, as anybody would.
Invariant: it returns only when an engine answers with what is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from actors.cluster_info import ClusterInfo
from actors.tls_trust import trust_of
from jobs.remote import Remote
from mulm.errors import DeadlineError, JobFailedError
from mulm.home import Home
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs

_POLL_S = 0.2

Report = Callable[[str], None]


def serve_model(
    info: ClusterInfo,
    args: AppArgs,
    *,
    home: Home,
    timeout_s: float = 180.0,
    report: Report = lambda _text: None,
) -> Mapping[str, str]:
    """Serve a model and wait until it answers.

    Args:
        info: The running application.
        args: What to serve.
        home: Where the first API key lies.
        timeout_s: Seconds to wait.
        report: Told each new state in a few words.

    Returns:
        What clients can ask now: names, the model's first, and the versions that they mean.

    Raises:
        JobFailedError: the deployment failed, with its own last words.
        DeadlineError: it was not ready in time.
        UnreachableError: nobody answers.
        NotFoundError: the model, or the first API key, is not there.
        MulmError: whatever else the API refuses.
    """
    with local_api(info, home) as api:
        return served_by(api, args, timeout_s, report)


def served_by(
    api: Remote,
    args: AppArgs,
    timeout_s: float = 180.0,
    report: Report = lambda _text: None,
) -> Mapping[str, str]:
    """As `serve_model`, by whatever server the API is of."""
    deadline_s = time.monotonic() + timeout_s
    wanted = args.model_dump(mode="json", exclude={"served_name"})
    told = api.put(f"deployments/{args.name}", wanted)
    while told["status"] != "running":
        if told["status"] == "failed":
            raise JobFailedError(f"the deployment failed: {told['message']}")
        if time.monotonic() > deadline_s:
            raise DeadlineError(
                f"the deployment was not ready in time: {told['message'] or told['status']}",
                hint="`mulm ps` shows what else is served; the Ray dashboard has the logs",
            )
        report(told["message"] or told["status"])
        time.sleep(_POLL_S)
        told = api.get(f"deployments/{args.name}")
    serves: dict[str, str] = told["serves"]
    return serves


def local_api(info: ClusterInfo, home: Home) -> Remote:
    """The control API of this machine's application, asked with the first key.

    Raises:
        NotFoundError: that key is gone.
    """
    return Remote(info.api_url, read_first_key(home), trust_of(info))
