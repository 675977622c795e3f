"""Figures that others published, for tables that show them beside ours."""

from __future__ import annotations

from dataclasses import dataclass

TASKS = (1, 100, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class PublishedService:
    """One row of the paper's Table V (Xu et al., arXiv 2412.18212).

    Attributes:
        total_delay_s: median total generation delay for each of `TASKS`.
        usd_per_1000: price of 1000 images; 0 is free.
    """

    name: str
    total_delay_s: tuple[float, float, float, float]
    usd_per_1000: float


TABLE_V = (
    PublishedService(
        name="Midjourney v6", total_delay_s=(75.9, 7590, 37950, 75900), usd_per_1000=66.00
    ),
    PublishedService(
        name="OpenAI DALL-E 3", total_delay_s=(14.7, 1470, 7350, 14700), usd_per_1000=40.00
    ),
    PublishedService(
        name="Replicate SD1.5", total_delay_s=(32.9, 3290, 16450, 32900), usd_per_1000=8.56
    ),
    PublishedService(
        name="Deepinfra SD2.1", total_delay_s=(12.7, 1270, 6350, 12700), usd_per_1000=3.76
    ),
    PublishedService(
        name="Stability.AI SD3", total_delay_s=(5.4, 540, 2700, 5400), usd_per_1000=65.00
    ),
    PublishedService(
        name="DEdgeAI, five Orins", total_delay_s=(18.3, 382.4, 1921.5, 3895.4), usd_per_1000=0.0
    ),
)

# Mean service delay in s at the default setting (Figure 5 and its text), by our policies' names.
FIGURE_5 = {"dqn": 9.59, "sac": 8.88, "d2sac": 8.39, "lad_ts_published": 7.67, "opt_ts": 7.37}
