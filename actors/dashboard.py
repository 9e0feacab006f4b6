"""Ray's HTTP API on loopback, with the token: the one place that speaks to it.

Used by the job client and by deploying. The standard library's client is enough, starts at once
and asks no proxy.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from actors.cluster_info import ClusterInfo, read_token
from mulm.errors import DeadlineError, MulmError, NotFoundError, NotRunningError
from mulm.home import Home

TIMEOUT_S = 30.0


class Dashboard:
    """Requests to the dashboard of one cluster.

    Args:
        url: Such as `http://127.0.0.1:8265`.
        token: What it asks for.
    """

    def __init__(self, url: str, token: str) -> None:
        self._netloc = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    @classmethod
    def of(cls, info: ClusterInfo, home: Home) -> Dashboard:
        """The dashboard of the running application."""
        return cls(info.dashboard_url, read_token(home))

    def request(
        self, method: str, path: str, body: object = None, timeout_s: float = TIMEOUT_S
    ) -> Any:
        """Send JSON, return JSON (None for an empty answer).

        Raises:
            NotRunningError: nobody answers.
            DeadlineError: no answer in time.
            NotFoundError: status 404.
            MulmError: another failure, with Ray's text and its `status`.
        """
        status, text = self._send(method, path, body, timeout_s)
        if status >= 400:
            kind = NotFoundError if status == 404 else MulmError
            first = text.strip().splitlines()[-1:] or [""]
            raise kind(f"Ray answered {status} to {method} {path}: {first[0]}", status=status)
        return json.loads(text) if text.strip() else None

    def _send(self, method: str, path: str, body: object, timeout_s: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._netloc, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, self._headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except TimeoutError:
            raise DeadlineError(
                f"Ray's dashboard did not answer within {timeout_s:.0f} s"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotRunningError(
                f"Ray's dashboard does not answer: {error}", hint="run `mulm up`"
            ) from None
        finally:
            connection.close()
