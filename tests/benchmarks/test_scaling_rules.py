"""benchmarks/scaling_rules: the rules of KEDA and the HPA, by the worked examples of their documentation."""

from __future__ import annotations

import pytest

from benchmarks.scaling_rules import Activation, Change, Hpa, Policy, Rules, least_allowed, most_allowed, recommended

FEW_OR_TENTH = (Policy("Pods", 4, 60), Policy("Percent", 10, 60))


@pytest.mark.parametrize(("average", "factor"), [(0.2, 2.0), (0.05, 0.5)])
def test_twice_the_target_doubles_the_pods_and_half_of_it_halves_them(average: float, factor: float) -> None:
    """Kubernetes: '200m' where '100m' is desired, and '50m'."""
    assert recommended(average * 10, 0.1, pods=10) == 10 * factor


@pytest.mark.parametrize("pods", [1, 3, 40])
def test_twenty_messages_at_five_a_pod_are_four_pods_whatever_there_are(pods: int) -> None:
    """KEDA: metricType AverageValue."""
    assert recommended(20, 5, pods=pods) == 4


@pytest.mark.parametrize(("metric", "pods"), [(109, 10), (91, 10), (100, 10), (112, 12), (89, 9)])
def test_a_tenth_more_or_less_changes_nothing(metric: float, pods: int) -> None:
    assert recommended(metric, 10, pods=10) == pods


def test_a_part_of_a_pod_is_a_whole_one() -> None:
    assert [recommended(metric, 16, pods=1) for metric in (1, 16, 33, 100)] == [1, 1, 3, 7]


def test_the_policy_that_allows_most_applies_eighty_pods_lose_eight_and_forty_lose_four() -> None:
    """Kubernetes: 4 pods or 10% a minute; of 72 pods 7.2 are rounded up to 8."""
    rules = Rules(0, FEW_OR_TENTH)
    assert [least_allowed(pods, [], now=0, rules=rules) for pods in (80, 72, 40, 30)] == [72, 64, 36, 26]


def test_min_selects_the_policy_that_allows_least_and_disabled_allows_nothing() -> None:
    """Kubernetes: 10% and 5 pods a minute, selectPolicy Min; and scaling down switched off."""
    policies = (Policy("Percent", 10, 60), Policy("Pods", 5, 60))
    assert least_allowed(80, [], now=0, rules=Rules(0, policies, "Min")) == 75
    assert least_allowed(20, [], now=0, rules=Rules(0, policies, "Min")) == 18
    assert least_allowed(80, [], now=0, rules=Rules(0, policies, "Disabled")) == 80
    assert most_allowed(80, [], now=0, rules=Rules(0, policies, "Disabled")) == 80
    assert most_allowed(80, [], now=0, rules=Rules(0, policies, "Min")) == 85


def test_what_changed_within_the_period_counts_against_the_policy() -> None:
    rules = Rules(0, (Policy("Pods", 4, 60),))
    removed, added = [Change(100, -3)], [Change(100, 3)]
    assert least_allowed(10, removed, now=159, rules=rules) == 9
    assert least_allowed(10, removed, now=160, rules=rules) == 6
    assert most_allowed(10, added, now=159, rules=rules) == 11
    assert most_allowed(10, removed, now=159, rules=rules) == 17  # those that left may come back


def test_by_default_four_pods_or_as_many_as_there_are_come_every_15_seconds() -> None:
    hpa, pods, seen = Hpa(least=1, most=100), 1, []
    for sync in range(6):
        pods = hpa.sync(15.0 * sync, pods, [(10_000, 10)])
        seen.append(pods)
    assert seen == [5, 10, 20, 40, 80, 100]


def test_eighty_pods_that_shall_be_ten_leave_eight_at_a_time_once_a_minute() -> None:
    hpa, pods, seen = Hpa(least=1, most=100, down=Rules(0, FEW_OR_TENTH)), 80, []
    for sync in range(9):
        pods = hpa.sync(15.0 * sync, pods, [(100, 10)])
        seen.append(pods)
    assert seen == [72, 72, 72, 72, 64, 64, 64, 64, 57]


def test_pods_leave_once_no_wish_of_the_last_five_minutes_was_higher() -> None:
    hpa, pods = Hpa(least=1, most=10), 8
    wishes = {0: 80, 15: 20, 60: 50, 300: 20, 345: 20, 360: 20, 375: 20}
    seen = [pods := hpa.sync(float(at), pods, [(metric, 10)]) for at, metric in wishes.items()]
    assert seen == [8, 8, 8, 5, 5, 2, 2]


def test_a_rise_in_the_metric_is_followed_at_once_but_a_window_for_it_waits_for_the_lowest_wish() -> None:
    at_once = Hpa(least=1, most=10)
    patient = Hpa(least=1, most=10, up=Rules(60, (Policy("Pods", 9, 15),)))
    assert at_once.sync(0, 2, [(50, 10)]) == 5
    assert [patient.sync(at, 2, [(50, 10)]) for at in (0.0, 15.0, 45.0, 60.0)] == [2, 2, 2, 5]


def test_between_the_window_s_limits_the_number_stays() -> None:
    hpa = Hpa(least=1, most=20)
    assert hpa.sync(0, 5, [(90, 10)]) == 9
    assert hpa.sync(15, 6, [(40, 10)]) == 6  # nine were wished for, but this wish is for fewer: none is added


def test_of_several_metrics_the_largest_wish_counts_which_is_not_the_wish_for_their_sum() -> None:
    two = Hpa(least=1, most=10).sync(0, 3, [(48, 16), (48, 16)])
    one = Hpa(least=1, most=10).sync(0, 3, [(48 + 48, 16)])
    assert (two, one) == (3, 6)


def test_the_limits_hold_and_at_zero_pods_the_hpa_does_nothing() -> None:
    hpa = Hpa(least=1, most=4, down=Rules(0, (Policy("Percent", 100, 15),)))
    assert hpa.sync(0, 1, [(1000, 10)]) == 4
    assert hpa.sync(15, 4, [(0, 10)]) == 1
    assert hpa.sync(30, 9, [(1000, 10)]) == 4
    assert hpa.sync(45, 0, [(1000, 10)]) == 0


def test_keda_starts_the_first_pod_at_the_first_job_and_stops_all_after_the_cool_down() -> None:
    keda = Activation(cooldown_seconds=300)
    assert keda.poll(0, [0], now=0) == 0
    assert keda.poll(0, [1], now=10) == 1
    assert keda.poll(3, [7], now=20) == 3
    assert keda.poll(3, [0], now=320) == 3
    assert keda.poll(3, [0], now=321) == 0


def test_keda_starts_nothing_up_to_the_activation_s_threshold_and_several_triggers_activate_one_by_one() -> None:
    assert Activation(300, threshold=5).poll(0, [5], now=0) == 0
    assert Activation(300, threshold=5).poll(0, [6], now=0) == 1
    assert Activation(300).poll(0, [0, 1], now=0) == 1


def test_pods_that_keda_never_saw_work_for_go_without_a_cool_down() -> None:
    assert Activation(300).poll(2, [0], now=0) == 0
