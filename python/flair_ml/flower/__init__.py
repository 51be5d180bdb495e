"""Flair inside Flower: Flower asks and counts, the weights travel by Flair.

    app = ClientApp(mods=[FlairMod()])                 # each site
    FlairStrategy(FedAvg()).start(grid, arrays)        # the server

What a site trained becomes a commit, signed with the site's own key; Flower carries its id. It needs `flwr` 1.41 or
later: `pip install "flair-ml[flower]"`.
"""

try:
    import flwr.app  # noqa: F401
except ImportError as error:
    raise ImportError('flair_ml.flower needs Flower: pip install "flair-ml[flower]"') from error

from .mod import FlairMod
from .strategy import FlairStrategy

__all__ = ["FlairMod", "FlairStrategy"]
