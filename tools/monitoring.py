"""Write what is made from other files: Grafana's dashboard, and the rules for the Prometheus operator.

python -m tools.monitoring            writes both
python -m tools.monitoring --check    changes nothing; exit code 1 where one of them is not what it would write
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml

from tools import ROOT
from tools.dashboard import dashboard

RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
PANELS = ROOT / "deploy" / "monitoring" / "dashboard.yaml"
DASHBOARD = ROOT / "deploy" / "monitoring" / "dashboard.json"
PROMETHEUS_RULE = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"

RULE_HEAD = """\
# Made from deploy/monitoring/rules.yaml by python -m tools.monitoring: change the rules there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: batch-renderer
  labels:
    app.kubernetes.io/name: batch-renderer
    app.kubernetes.io/component: monitoring
    app.kubernetes.io/part-of: batch-renderer
    release: kube-prometheus-stack
spec:
"""


def made() -> dict[Path, str]:
    """The files that are made, and what belongs in them."""
    panels, rules = (path.read_text(encoding="utf-8") for path in (PANELS, RULES))
    shown = json.dumps(dashboard(panels), indent=1, ensure_ascii=False)
    return {DASHBOARD: f"{shown}\n", PROMETHEUS_RULE: prometheus_rule_text(rules)}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def prometheus_rule_text(rules: str) -> str:
    """The rules as a PrometheusRule: the same groups."""
    groups = yaml.safe_load(rules)["groups"]
    body = yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return RULE_HEAD + "".join(f"  {line}\n" if line else "\n" for line in body.splitlines())


def main() -> int:
    """Write the files, or check that they are up to date; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say which files would change")
    check = parser.parse_args().check
    changed = {
        path: text for path, text in made().items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in changed.items():
        print(path.relative_to(ROOT), "would change" if check else "written", file=sys.stderr)
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
