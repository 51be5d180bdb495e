"""What Opacus's accountant says of a training, as an update's claim of privacy. Opacus is not imported: whoever has an
engine of it has imported it.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context
from typing import Any

from .errors import InvalidError

#: Digits of an ε that are told, rounded up.
_DIGITS = Context(prec=4, rounding=ROUND_CEILING)


def check(engine: Any, optimizer: Any) -> None:
    """Refuses what is no engine and optimiser of Opacus's."""
    if not hasattr(getattr(engine, "accountant", None), "history"):
        raise InvalidError(f"a {type(engine).__name__} is no PrivacyEngine of Opacus's")
    if not hasattr(optimizer, "max_grad_norm"):
        raise InvalidError(
            f"a {type(optimizer).__name__} clips no gradients", "give the optimiser that `make_private` returned"
        )


def claim(engine: Any, optimizer: Any, delta: float) -> dict[str, Any]:
    """What the engine's accountant says of all steps it has counted.

    Where noise or sampling changed on the way, the least noise and the highest rate are told; ε is of what was done.
    """
    history = engine.accountant.history
    if not history:
        raise InvalidError(
            "Opacus has counted no step: the update would claim privacy for a training that had none",
            "train with the model, optimiser and loader that `make_private` gave",
        )
    noise, rate, steps = zip(*history, strict=True)
    module = type(engine).__module__.partition(".")[0]
    return {
        "unit": "example",
        # Opacus's accountants are for Poisson sampling, where an example is there or not.
        "neighbouring": "add-remove",
        "mechanism": "dp-sgd",
        "clip": repr(float(optimizer.max_grad_norm)),
        "noise": repr(float(min(noise))),
        "sampling": repr(float(max(rate))),
        "steps": int(sum(steps)),
        "epsilon": str(_DIGITS.create_decimal(repr(float(engine.get_epsilon(delta))))),
        "delta": repr(float(delta)),
        "accountant": f"{module} {engine.accountant.mechanism()}",
    }
