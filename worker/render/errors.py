"""The two ways in which a device fails a call. Without torch: the service names them before engines load."""

from __future__ import annotations


class DeviceOutOfMemory(Exception):
    """The device had too little memory for this call; a smaller one may fit."""

    def __init__(self, message: str = "", *, certain: bool = True) -> None:
        """`certain`: False where the error does not say so, and the call may be one that cuDNN does not support."""
        super().__init__(message)
        self.certain = certain


class DeviceLost(Exception):
    """The device no longer works in this process; only a new process helps."""

    prepared_for: str | None = None  # the engine set, if no job's work but preparation for its sizes lost the device
