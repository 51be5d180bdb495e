"""What can go wrong, by kind. Every error says what happened, to which thing, and what to do about it."""

from __future__ import annotations


class FlairError(Exception):
    """Something could not be done.

    Attributes:
        message: what happened, and to which thing.
        help: what to do about it, if anything is known to help.
        code: the stable word of its kind, as `flair --json` prints it.
    """

    code = "internal"

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help

    def __str__(self) -> str:
        return self.message if self.help is None else f"{self.message}\n  help: {self.help}"


class InvalidError(FlairError, ValueError):
    """An argument, file or model that can't be used."""

    code = "invalid"


class NotFoundError(FlairError, LookupError):
    """No such repository, branch, commit or file."""

    code = "not-found"


class DeniedError(FlairError):
    """This person may not do that."""

    code = "denied"


class ConflictError(FlairError):
    """The state of folder or repository does not allow it now."""

    code = "conflict"


class OfflineError(FlairError):
    """No node answers, or a peer can't be reached."""

    code = "offline"


class FullError(FlairError):
    """The disk is full."""

    code = "full"


class UnverifiedError(FlairError):
    """A check failed: a result that does not hold, a damaged blob."""

    code = "unverified"


_KINDS: dict[str, type[FlairError]] = {
    kind.code: kind
    for kind in (InvalidError, NotFoundError, DeniedError, ConflictError, OfflineError, FullError, UnverifiedError)
}


def refusal(code: str, message: str, help: str | None) -> FlairError:
    """The error for what a node says."""
    return _KINDS.get(code, FlairError)(message, help)
