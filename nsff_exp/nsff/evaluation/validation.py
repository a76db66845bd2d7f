"""Score a few held-out views while training."""

import dataclasses
import logging

import numpy as np

from nsff.config import Config
from nsff.data.cameras import Cameras, load_cameras
from nsff.errors import InputError
from nsff.evaluation.evaluator import Scorer
from nsff.evaluation.protocols import PROTOCOLS, HeldOutView, find_heldout_views
from nsff.evaluation.scores import mean_of_views
from nsff.fields import Fields

log = logging.getLogger("nsff")

N_VIEWS = 4


@dataclasses.dataclass(frozen=True)
class Validation:
    """Held-out views to score while training, evenly spaced among those of the protocol; empty if it has none."""

    config: Config
    cameras: Cameras
    views: list[HeldOutView]

    @staticmethod
    def of(config: Config) -> "Validation":
        """Select the views; log why there are none where the protocol lacks its files."""
        cameras = load_cameras(config)
        try:
            views = find_heldout_views(config, cameras).complete
            selected = [views[k] for k in np.unique(np.linspace(0, len(views) - 1, N_VIEWS).round().astype(int))]
            for view in selected:  # fail now rather than in the middle of the training
                view.read_truth(), view.read_moving()
        except InputError as error:
            log.info("no validation on held-out views: %s", error)
            return Validation(config, cameras, [])
        return Validation(config, cameras, selected)

    def score(self, fields: Fields) -> dict[str, float]:
        """Mean scores by the keys of `metrics_<protocol>.json`, without LPIPS and whatever else is undefined."""
        if not self.views:
            return {}
        scorer = Scorer(fields, self.config, PROTOCOLS[self.config.protocol], self.cameras)
        mean = mean_of_views([scorer.score(view)[0] for view in self.views])
        return {name: value for name, value in mean.to_json().items() if value is not None}
