"""The images' health check: `python healthcheck.py VARIABLE` asks /healthz on the port that the variable names.

Exit code 0: it answered 200. 1: it did not, and a sentence says what happened. Without the variable there is nothing to
ask: the port is off, or the container runs another command.
"""

from __future__ import annotations

import http.client
import os
import sys

SECONDS = 5


def main() -> int:
    """The command. It asks this container only, whatever the proxy variables say."""
    variable = sys.argv[1]
    try:
        port = int(os.environ.get(variable, ""))  # " 9807 " and "+9807" are ports to the settings, too
    except ValueError:
        port = 0
    if port <= 0:
        print(f"{variable} names no port: health is not served")
        return 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        why = answer.read(500).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        print(f"/healthz on port {port} does not answer: {error}")
        return 1
    print(f"{answer.status}: {why}")
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
