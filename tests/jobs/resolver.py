"""A resolver that tests write the answers of; numbers and localhost are still resolved by the real one."""

from __future__ import annotations

import socket
from typing import Any


class Resolver:
    """`answers[name]`: one list of addresses, or an error, a question; the last one answers all later questions."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str] | OSError]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        """In place of socket.getaddrinfo."""
        if host not in self.answers:
            return self._real(host, port, *args, **options)
        self.asked.append(host)
        answers = self.answers[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [found for address in answer for found in self._real(address, port, *args, **options)]
