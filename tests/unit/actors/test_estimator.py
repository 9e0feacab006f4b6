from __future__ import annotations

import pytest

from mulm.errors import DeadlineError

pytest.importorskip("ray")

import ray

from actors import estimator


def test_where_no_worker_is_free_it_says_so_and_what_else_can_be_done(monkeypatch):
    def late(*_args: object, **_kwargs: object) -> None:
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", late)
    with pytest.raises(DeadlineError, match=r"no worker has made the estimate within 30 s") as told:
        estimator.estimated(None)
    assert "--dry-run" in str(told.value.hint)
