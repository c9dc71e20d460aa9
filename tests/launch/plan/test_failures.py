"""How often to save and what is left of the time: formulas of the literature, and a run with dice for failures."""

from __future__ import annotations

import math
import random

import pytest

from launch.plan.failures import FailuresConfig, daly_interval, goodput, kept_share, young_interval


def test_youngs_interval_is_his_formula():
    assert young_interval(stall=50.0, between_failures=10_000.0) == 1000.0


def test_dalys_interval_nears_youngs_where_failures_are_rare_and_is_shorter_by_the_stall():
    assert daly_interval(1.0, 1e9) == pytest.approx(young_interval(1.0, 1e9), rel=1e-4)
    assert daly_interval(60.0, 3600.0) < young_interval(60.0, 3600.0)
    assert daly_interval(100.0, 40.0) == 40.0


@pytest.mark.parametrize(("stall", "between"), [(5.0, 3600.0), (60.0, 3600.0), (200.0, 1000.0)])
def test_no_other_interval_keeps_much_more(stall, between):
    best = max(kept_share(interval, stall, 300.0, between) for interval in range(10, 5000, 5))
    assert kept_share(daly_interval(stall, between), stall, 300.0, between) > 0.999 * best


@pytest.mark.parametrize(("interval", "stall", "restart", "between"), [(400, 20, 300, 3000), (1000, 50, 100, 1500)])
def test_the_kept_share_is_what_a_run_with_random_failures_keeps(interval, stall, restart, between):
    dice = random.Random(7)
    wall = kept = 0.0
    failure = dice.expovariate(1 / between)
    while kept < 3000 * interval:
        if failure > interval + stall:
            failure -= interval + stall
            wall, kept = wall + interval + stall, kept + interval
            continue
        wall += failure
        # A restart may fail as well, and begins again.
        while (failure := dice.expovariate(1 / between)) < restart:
            wall += failure
        wall, failure = wall + restart, failure - restart
    assert kept_share(interval, stall, restart, between) == pytest.approx(kept / wall, rel=0.03)


def test_goodput_falls_with_devices_as_fewer_hours_pass_between_failures():
    config = FailuresConfig()
    runs = [goodput(config, devices, 8, 12 * 8e9, 50e9) for devices in (8, 64, 512, 4096, 16384)]
    shares = [run.share for run in runs]
    assert shares == sorted(shares, reverse=True) and 0.5 < shares[-1] < shares[0] < 1
    # 419 interruptions in 54 days on 16,384 devices (Grattafiori et al. 2024).
    assert 54 * 86400 / runs[-1].between_failures == pytest.approx(419, rel=0.01)


def test_there_is_no_checkpoint_before_the_one_before_is_whole():
    slow = FailuresConfig(storage_bandwidth=1e6)
    run = goodput(slow, 16, 8, 12 * 8e9, 50e9)
    assert run.interval == run.write == pytest.approx(12 * 8e9 / 2e6)
    assert math.isfinite(run.share)
