"""Who is whom: predictions and ground truth paired one to one."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from runtime.arrays import Array

APART = 1e6  # cost of a pair that does not overlap enough; a pair that does costs -1


def true_positives(iou: Array, threshold: float) -> int:
    """How many predictions find a ground truth of their own, from the IoU of every pair [P, G].

    The Hungarian assignment takes as many pairs above the threshold as there can be at once, whatever their IoU. A pair
    exactly at the threshold counts when it happens to be assigned, but is not sought: so does the original. A nan
    overlaps nothing.
    """
    if iou.size == 0:
        return 0
    rows, columns = linear_sum_assignment(np.where(iou > threshold, -1.0, APART))
    return int((iou[rows, columns] >= threshold).sum())
