"""stub_app in a worker that sees another disk at one folder than everyone else: `OTHER_DISK=<folder>=<mount options>`.

Only root may do this: the process gets a view of the file systems of its own, and mounts a tmpfs there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

from tests.integration.stub_app import app

CLONE_NEWNS = 0x00020000

folder, _, options = os.environ["OTHER_DISK"].partition("=")
if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
    raise OSError(ctypes.get_errno(), "unshare")
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

__all__ = ["app"]
