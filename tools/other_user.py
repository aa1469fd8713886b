"""Run commands as another user in a copy of this tree: what a new user without root would do. Needs root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tools import ROOT


class OtherUser:
    """An account with its own copy of the tree, home, temporary folder and, where it needs one, Python.

    `tree` is where to run commands, `python` the interpreter, `environment` what to add to the variables, `uid` and
    `gid` who to run as. Everything lies in `folder`, which the caller removes.
    """

    def __init__(self, name: str, folder: Path) -> None:
        """Copy what git knows of the tree, and new files that it does not ignore.

        Raises:
            KeyError: there is no such account.
        """
        account = pwd.getpwnam(name)
        self.uid, self.gid = account.pw_uid, account.pw_gid
        self.tree = folder / "tree"
        self._folder = folder
        folder.chmod(0o755)
        copy_tree(self.tree)
        for part in ("home", "tmp"):
            (folder / part).mkdir()
        self.environment = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "USER": name,
            "LOGNAME": name,
            "PYTHONPATH": str(self.tree),
        }
        self._own()
        self.python = Path(sys.executable)
        if not self._runs(self.python):
            self.python = self._copied_python()

    def _own(self) -> None:
        subprocess.run(["chown", "-R", "-h", f"{self.uid}:{self.gid}", str(self._folder)], check=True)

    def _runs(self, python: Path) -> bool:
        command = [str(python), "-c", "import pytest"]
        try:
            done = subprocess.run(command, cwd=self.tree, check=False, **self.as_popen_arguments())
        except PermissionError:
            return False
        return bool(done.returncode == 0)

    def as_popen_arguments(self) -> dict[str, Any]:
        """`user`, `group`, `extra_groups` and `env` for subprocess."""
        variables = os.environ | self.environment
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "env": variables}

    def _copied_python(self) -> Path:
        """A copy of this interpreter, for one that lies in a home folder, with the packages of this environment."""
        base = self._folder / "python"
        skipped = shutil.ignore_patterns("site-packages", "__pycache__", "test", "*.a")
        shutil.copytree(sys.base_prefix, base, symlinks=True, ignore=skipped)
        self.environment["LD_LIBRARY_PATH"] = str(base / "lib")
        python = base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        environment = self._folder / "venv"
        command = [str(python), "-m", "venv", "--without-pip", str(environment)]
        subprocess.run(command, check=True, env=os.environ | self.environment)
        packages = next((environment / "lib").glob("python*/site-packages"))
        # Links, not a .pth file: some packages look for libraries of others beside themselves, in this folder.
        for package in Path(sysconfig.get_path("purelib")).iterdir():
            (packages / package.name).symlink_to(package)
        self._own()
        return environment / "bin" / "python"


def copy_tree(target: Path) -> None:
    """Copy the files of the working tree that git does not ignore; links stay links."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        source = ROOT / name
        if name and (source.is_file() or source.is_symlink()):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
