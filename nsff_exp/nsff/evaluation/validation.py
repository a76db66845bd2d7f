"""A few held-out views scored while training."""

import dataclasses
import logging

import numpy as np

from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.errors import InputError
from nsff.evaluation.evaluator import Scorer, mean_of
from nsff.evaluation.protocols import PROTOCOLS, View, find_views
from nsff.fields import Fields

log = logging.getLogger("nsff")

N_VIEWS = 4


@dataclasses.dataclass(frozen=True)
class Validation:
    """The views that are scored, evenly spaced among those of the protocol; none where the scene has none."""

    config: Config
    cameras: Cameras
    views: list[View]

    @staticmethod
    def of(config: Config) -> "Validation":
        """Without its files, a protocol has no views, which is said."""
        cameras = load_cameras(config)
        try:
            views = find_views(config, cameras).there
            chosen = [views[k] for k in np.unique(np.linspace(0, len(views) - 1, N_VIEWS).round().astype(int))]
            for view in chosen:  # now, not in the middle of the training
                view.truth(), view.mask()
        except InputError as error:
            log.info("no validation: %s", error)
            return Validation(config, cameras, [])
        return Validation(config, cameras, chosen)

    def score(self, fields: Fields) -> dict[str, float]:
        """Mean of each figure that could be had; without LPIPS."""
        if not self.views:
            return {}
        scorer = Scorer(fields, self.config, PROTOCOLS[self.config.protocol], self.cameras)
        mean = mean_of([scorer.score(view)[0] for view in self.views])
        return {name: value for name, value in mean.items() if value is not None}
