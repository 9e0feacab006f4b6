"""Whose held-out text an evaluation reads: known before it begins, so that none begins in vain.

Asked by `mulm.runs.identity`, for whatever starts a run, and by `jobs.evaluate`.
"""

from __future__ import annotations

from mulm.errors import NotFoundError
from mulm.eval.config import EvaluateConfig
from mulm.manifest import Manifest

ROLE = "dataset"
"""What a model calls the dataset that it was trained on."""


def require_dataset(config: EvaluateConfig, model: Manifest) -> None:
    """Let bits per byte be measured.

    Raises:
        NotFoundError: no dataset is named, and the model does not say which it was trained on.
    """
    if config.dataset is None and ROLE not in model.parents:
        raise NotFoundError(
            f"{config.model} does not say which dataset it was trained on",
            hint=f"name one as `dataset`: mulm eval {config.model} --dataset NAME",
            param="dataset",
        )
