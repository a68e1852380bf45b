"""CQL(H): conservative Q-learning (Kumar et al., arXiv 2006.04779).

The critics' loss is Cal-QL's without the calibration, which is all that Cal-QL adds: values of policy
actions are pushed down however low they are already, below any return that was reached.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robot_rl.agents.calql import CalQL


class CQL(CalQL):
    """TD-MSE + alpha (logsumexp_a [Q(s, a) - log mu(a)] - Q(s, a_data)); settings as `CalQLConfig`."""

    def conservative_gap(
        self, q_sampled: Tensor, q_data: Tensor, log_mu: Tensor, mc_return: Tensor
    ) -> tuple[Tensor, Tensor]:
        """logsumexp_a [Q(s, a) - log mu(a)] - Q(s, a_data), (E, B); and 0, the share that a return raised."""
        gap = torch.logsumexp(q_sampled - log_mu, dim=-1) - q_data
        return gap, torch.zeros(())
