"""Write the tables of configuration fields: what is used, what must have one value, and what changes nothing.

python -m tools.fields                             print them
python -m tools.fields --write docs/engines.md     replace them in a page, between two comments
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engines.model.config_rules import TABLES
from engines.model.fields import MustBe, Rule, Rules, Used

BEGIN, END = "<!-- fields -->", "<!-- /fields -->"


def tables() -> str:
    """All tables in Markdown, each under a heading."""
    return "\n\n".join(f"### {title}\n\n{table(rules)}" for title, rules in TABLES.items())


def table(rules: Rules) -> str:
    """A row for each rule, with all fields that have it, in the rules' order."""
    names: dict[str, list[str]] = {}
    for name, rule in rules.items():
        names.setdefault(done_with(rule), []).append(f"`{name}`")
    rows = [f"| {', '.join(fields)} | {what} |" for what, fields in names.items()]
    return "\n".join(["| field | what is done with it |", "|---|---|", *rows])


def done_with(rule: Rule) -> str:
    """A rule in words."""
    if isinstance(rule, Used):
        return f"used: {rule.what}"
    if isinstance(rule, MustBe):
        return f"must be {' or '.join(f'`{json.dumps(value)}`' for value in rule.values)} ({rule.what})"
    return f"ignored: {rule.why}"


def written(page: str) -> str:
    """A page with the tables between its two comments.

    Raises:
        ValueError: the comments are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the tables: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables in this page")
    page = parser.parse_args().write
    if page is None:
        print(tables())
        return
    try:
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(f"{page}: {error}")


if __name__ == "__main__":
    main()
