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

from .answers import (
    Aggregated,
    AggregateInput,
    Branch,
    Change,
    Claim,
    Committed,
    Diff,
    DiffTotal,
    Done,
    Draft,
    EgressBlob,
    EgressField,
    Joined,
    JoinWaiting,
    Log,
    LogEntry,
    Member,
    Metric,
    Moved,
    Peer,
    PrivacyLedger,
    PrivacyRelease,
    PrivacySpent,
    PrivateDraft,
    Pushed,
    ResetDone,
    Review,
    Reviewed,
    Shown,
    Status,
    TensorDiff,
    TicketMade,
    UpdateNote,
    Verified,
    VerifyRow,
    WorkStatus,
)
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
from .hub import FlairHubMixin
from .node import Node
from .repo import Repo, clone, init
from .run import Run

__all__ = [
    "AggregateInput",
    "Aggregated",
    "Branch",
    "Change",
    "Claim",
    "Committed",
    "ConflictError",
    "DeniedError",
    "Diff",
    "DiffTotal",
    "Done",
    "Draft",
    "EgressBlob",
    "EgressField",
    "FlairError",
    "FlairHubMixin",
    "FullError",
    "InvalidError",
    "JoinWaiting",
    "Joined",
    "Log",
    "LogEntry",
    "Member",
    "Metric",
    "Moved",
    "Node",
    "NotFoundError",
    "OfflineError",
    "Peer",
    "PrivacyLedger",
    "PrivacyRelease",
    "PrivacySpent",
    "PrivateDraft",
    "Pushed",
    "Repo",
    "ResetDone",
    "Review",
    "Reviewed",
    "Run",
    "Shown",
    "Status",
    "TensorDiff",
    "TicketMade",
    "UnverifiedError",
    "UpdateNote",
    "Verified",
    "VerifyRow",
    "WorkStatus",
    "clone",
    "init",
]
