"""Means over seeds and their 95 % intervals."""

import statistics

T_95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
)  # Student's t, two-sided, for 1 to 9 degrees of freedom


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95 % interval (NaN for one seed)."""
    if len(values) < 2:
        return statistics.fmean(values), float("nan")
    t = T_95[min(len(values) - 2, len(T_95) - 1)]
    return statistics.fmean(values), t * statistics.stdev(values) / len(values) ** 0.5
