"""Whether a file is on a file server, which other machines share, or on a disk of this machine's own."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")  # proc(5)
# Types of file systems whose space belongs to a server. FUSE's are named 'fuse.' and the program's name.
NETWORK = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "orangefs", "pvfs2",
        "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs", "fuse.goofys", "fuse.rclone",
        "fuse.gcsfuse", "fuse.juicefs", "fuse.mount-s3", "fuse.mountpoint-s3", "fuse.davfs", "fuse.mfs",
        "fuse.blobfuse", "fuse.blobfuse2", "fuse.seaweedfs", "fuse.lizardfs", "fuse.moosefs", "fuse.curlftpfs",
    }
)  # fmt: skip


def is_shared(path: Path) -> bool:
    """Whether the path, or the nearest folder above it that exists, is on a file server; False if that is not known."""
    for place in (path, *path.parents):
        try:
            device = place.stat().st_dev
        except (OSError, ValueError):
            continue
        try:
            return network_device(MOUNTS.read_text(errors="replace"), device=device)
        except OSError:
            return False  # not Linux
    return False


def network_device(mounts: str, *, device: int) -> bool:
    """Whether the lines of a mountinfo file give this device (st_dev) a type that is in NETWORK."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        ours, _, theirs = line.partition(" - ")
        if ours.split()[2:3] == [number]:
            return theirs.split()[:1] != [] and theirs.split()[0] in NETWORK
    return False
