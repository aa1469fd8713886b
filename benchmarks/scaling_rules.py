"""The rules by which KEDA and Kubernetes' HorizontalPodAutoscaler (HPA) choose a number of pods, without a cluster.

Each rule is a function of what the controllers see: the time, the metric and the pods that there are. They follow
Kubernetes 1.24 to 1.37 (pkg/controller/podautoscaler: GetExternalPerPodMetricReplicas in replica_calculator.go, and
normalizeDesiredReplicasWithBehaviors in horizontal.go) and KEDA 2.17 to 2.21 (pkg/scaling/executor:
RequestScale in scale_scaledobjects.go). KEDA moves a Deployment between zero and one, and the HPA from one up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

TOLERANCE = 0.1  # of kube-controller-manager's --horizontal-pod-autoscaler-tolerance
SYNC_SECONDS = 15.0  # of its --horizontal-pod-autoscaler-sync-period


@dataclass(frozen=True)
class Policy:
    """How much may change within `period_seconds`: so many pods, or so many percent of them."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True)
class Rules:
    """One direction of an HPA's `behavior`."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


# What the HPA does where `behavior` says nothing.
DEFAULT_UP = Rules(0.0, (Policy("Percent", 100, 15.0), Policy("Pods", 4, 15.0)))
DEFAULT_DOWN = Rules(300.0, (Policy("Percent", 100, 15.0),))


@dataclass(frozen=True)
class Change:
    """Pods that were added (or, below zero, removed) at a time in seconds."""

    at: float
    pods: int


def recommended(metric: float, target: float, *, pods: int, tolerance: float = TOLERANCE) -> int:
    """Pods for an external metric with a target of type AverageValue: metric / target, rounded up.

    None are added or removed while the metric is within the tolerance of what `pods` stand for.
    """
    if pods > 0 and abs(1.0 - metric / (target * pods)) <= tolerance:
        return pods
    return math.ceil(metric / target)


def most_allowed(pods: int, changes: Sequence[Change], *, now: float, rules: Rules) -> int:
    """The most pods that the policies for scaling up allow now."""
    return pods + _allowed(pods, changes, now=now, rules=rules, sign=1)


def least_allowed(pods: int, changes: Sequence[Change], *, now: float, rules: Rules) -> int:
    """The fewest pods that the policies for scaling down allow now."""
    return pods - _allowed(pods, changes, now=now, rules=rules, sign=-1)


def _allowed(pods: int, changes: Sequence[Change], *, now: float, rules: Rules, sign: Literal[1, -1]) -> int:
    """How many pods may still be added (sign 1) or removed (sign -1) now."""
    if rules.select == "Disabled":
        return 0
    allowed = []
    for policy in rules.policies:
        changed = sum(change.pods for change in changes if change.at > now - policy.period_seconds)
        before = pods - changed  # at the start of the period: percentages are of these
        step = policy.value if policy.kind == "Pods" else before * policy.value / 100
        allowed.append(math.ceil(step - sign * changed))
    choose = min if rules.select == "Min" else max
    return max(0, choose(allowed))


@dataclass
class Hpa:
    """One HorizontalPodAutoscaler: what it remembers between two syncs."""

    least: int
    most: int
    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN
    _recommendations: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[Change] = field(default_factory=list)

    def sync(self, now: float, pods: int, metrics: Sequence[tuple[float, float]]) -> int:
        """The wanted number of pods. `metrics` are pairs of a value and its target; the largest wish counts.

        At zero pods it does nothing: starting the first one is KEDA's part.
        """
        if pods == 0 or pods > self.most:
            return min(pods, self.most)
        if not self._recommendations:
            self._recommendations.append((now, pods))
        wish = max(recommended(metric, target, pods=pods) for metric, target in metrics)
        chosen = self._limited(now, pods, self._stabilized(now, pods, wish))
        if chosen != pods:
            self._changes.append(Change(now, chosen - pods))
        return chosen

    def _stabilized(self, now: float, pods: int, wish: int) -> int:
        """At least the lowest wish of the window for scaling up, at most the highest of that for scaling down."""
        lowest = min([wish, *self._since(now - self.up.stabilization_seconds)])
        highest = max([wish, *self._since(now - self.down.stabilization_seconds)])
        window = max(self.up.stabilization_seconds, self.down.stabilization_seconds)
        self._recommendations = [each for each in self._recommendations if each[0] >= now - window]
        self._recommendations.append((now, wish))
        return min(max(pods, lowest), highest)

    def _since(self, start: float) -> list[int]:
        return [pods for at, pods in self._recommendations if at > start]

    def _limited(self, now: float, pods: int, wish: int) -> int:
        longest = max((policy.period_seconds for policy in (*self.up.policies, *self.down.policies)), default=0.0)
        self._changes = [change for change in self._changes if change.at > now - longest]
        if wish > pods:
            return min(wish, self.most, most_allowed(pods, self._changes, now=now, rules=self.up))
        if wish < pods:
            return max(wish, self.least, least_allowed(pods, self._changes, now=now, rules=self.down))
        return pods


@dataclass
class Activation:
    """KEDA's own part: the first pod, and none at all."""

    cooldown_seconds: float
    threshold: float = 0.0
    _last_active: float | None = None

    def poll(self, pods: int, metrics: Iterable[float], *, now: float) -> int:
        """The wanted number of pods: one if there is work and no pod, zero after the cool-down without work."""
        if any(metric > self.threshold for metric in metrics):
            self._last_active = now
            return max(1, pods)
        if self._last_active is not None and self._last_active + self.cooldown_seconds >= now:
            return pods
        return 0
