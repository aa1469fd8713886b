"""A KEDA ScaledObject, as the simulation of scaling needs it: read from the file that clusters get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.scaling_rules import DEFAULT_DOWN, DEFAULT_UP, Activation, Hpa, Policy, Rules

DEPLOYED = Path(__file__).resolve().parent.parent / "deploy/kubernetes/components/keda/scaledobject.yaml"
FORMULA = "queued + unacknowledged + (delayed > 0 ? 1 : 0)"  # what Counts.unfinished computes


@dataclass(frozen=True)
class Counts:
    """What KEDA's three triggers read from Redis, in jobs."""

    queued: int
    unacknowledged: int
    delayed: int

    @property
    def unfinished(self) -> int:
        """The metric: FORMULA."""
        return self.queued + self.unacknowledged + (1 if self.delayed > 0 else 0)


@dataclass(frozen=True)
class ScaledObject:
    """The numbers of a ScaledObject with one formula; times in seconds."""

    target: int
    most: int
    polling_seconds: float
    cooldown_seconds: float
    activation: float
    up: Rules
    down: Rules

    @classmethod
    def load(cls, path: Path = DEPLOYED) -> ScaledObject:
        """Read the file of the component.

        Raises:
            ValueError: its formula is not the one that the simulation computes.
        """
        spec = yaml.safe_load(path.read_text())["spec"]
        modifiers = spec["advanced"]["scalingModifiers"]
        if modifiers["formula"] != FORMULA:
            raise ValueError(
                f"{path}: the formula is {modifiers['formula']!r}, and the simulation computes {FORMULA!r}"
            )
        behavior = spec["advanced"].get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
        return cls(
            target=int(modifiers["target"]),
            most=spec["maxReplicaCount"],
            polling_seconds=spec["pollingInterval"],
            cooldown_seconds=spec["cooldownPeriod"],
            activation=float(modifiers.get("activationTarget", 0)),
            up=_rules(behavior.get("scaleUp"), DEFAULT_UP),
            down=_rules(behavior.get("scaleDown"), DEFAULT_DOWN),
        )

    def hpa(self) -> Hpa:
        """A fresh HPA, as KEDA makes it: never below one pod."""
        return Hpa(least=1, most=self.most, up=self.up, down=self.down)

    def activates(self) -> Activation:
        """A fresh state of KEDA's own part."""
        return Activation(self.cooldown_seconds, self.activation)


def _rules(behavior: dict[str, Any] | None, default: Rules) -> Rules:
    if behavior is None:
        return default
    policies = tuple(
        Policy(each["type"], each["value"], each["periodSeconds"]) for each in behavior.get("policies", ())
    )
    return Rules(
        stabilization_seconds=behavior.get("stabilizationWindowSeconds", default.stabilization_seconds),
        policies=policies or default.policies,
        select=behavior.get("selectPolicy", "Max"),
    )
