"""Flair from Python: git for machine-learning models, without a server.

    import flair_ml as flair

    repo = flair.clone("flair…", "digits")
    model.load_state_dict(repo.state_dict("main"))
    with repo.train(model, message="site B") as run:
        for epoch in range(2):
            run.log({"train/loss": train(model, loader)}, step=epoch)
        run.num_examples = len(loader.dataset)
    repo.push()

PyTorch is imported when a model is first read or written, not before.
"""

from . import answers
from .answers import *  # noqa: F403
from .errors import (
    ConflictError,
    DeniedError,
    FlairError,
    FullError,
    InvalidError,
    NotFoundError,
    OfflineError,
    UnverifiedError,
)
from .evaluation import Evaluated
from .hub import FlairHubMixin
from .layers import roles
from .node import Node
from .repo import Repo
from .run import Run
from .start import clone, init, new
from .weights import state

__all__ = [
    "ConflictError",
    "DeniedError",
    "Evaluated",
    "FlairError",
    "FlairHubMixin",
    "FullError",
    "InvalidError",
    "Node",
    "NotFoundError",
    "OfflineError",
    "Repo",
    "Run",
    "UnverifiedError",
    "clone",
    "init",
    "new",
    "roles",
    "state",
]
__all__ += answers.__all__
