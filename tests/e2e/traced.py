"""A command under strace, in a network namespace without routes: what it and its children write, and the sockets that
they make.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Each call that makes, changes or removes a file by its name, and those by which a process reaches another machine.
FILE_CALLS = (
    "open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,"
    "symlink,symlinkat,truncate,chmod,fchmodat,chown,lchown,fchownat,setxattr,utimensat"
)
NETWORK_CALLS = "socket,connect,sendto,sendmsg,sendmmsg,bind"
CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
# A name, with the folder that it is relative to: strace prints a descriptor as `7</the/folder>`.
NAME = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')
INTERNET = re.compile(r"AF_INET6?\b")


@dataclass(frozen=True)
class Trace:
    """What the processes of a command tried, whether or not it succeeded.

    Attributes:
        written: the files and folders that were to be opened for writing, made, renamed, changed or removed.
        internet: the calls on internet sockets, as strace prints them.
    """

    code: int
    out: str
    err: str
    written: frozenset[Path]
    internet: tuple[str, ...]

    def written_outside(self, *places: Path) -> list[str]:
        """What was written that lies in none of the places, nor among the devices."""
        allowed = (*places, Path("/dev"))
        return sorted(str(path) for path in self.written if not any(path.is_relative_to(place) for place in allowed))


def why_not() -> str | None:
    """Why no process can be traced here; None where one can."""
    if shutil.which("strace") is None:
        return "strace isn't installed (apt-get install strace)"
    done = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    return f"strace may trace no process here: {done.stderr.strip()}" if done.returncode else None


def without_network() -> list[str]:
    """What a command line begins with to run without any route; nothing where that isn't allowed."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which(words[0]) is None:
        return []
    return words if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0 else []


def trace(
    words: Sequence[str],
    log: Path,
    environment: dict[str, str],
    cwd: Path,
    typed: str | None = None,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
) -> Trace:
    """Run a command and what it starts.

    Args:
        typed: its standard input.
        meanwhile: called with the process, whose network then is the machine's, since somebody is to ask it.
    """
    calls = f"trace={FILE_CALLS},{NETWORK_CALLS}"
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-qq", "-s", "4096", "-o", str(log), "-e", calls]
    before = without_network() if meanwhile is None else []
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*before, *strace, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=cwd
    ) as process:
        if meanwhile is not None:
            meanwhile(process)
        out, err = process.communicate(typed)
    return parse(log.read_text(errors="replace").splitlines(), process.returncode, out, err)


def parse(lines: Sequence[str], code: int = 0, out: str = "", err: str = "") -> Trace:
    """What strace's lines say; a call that another process interrupts has its arguments in its first line."""
    written, internet = set[Path](), list[str]()
    for line in lines:
        call = CALL.match(line)
        if call is None:
            continue
        name, rest = call.groups()
        if name in NETWORK_CALLS.split(","):
            if INTERNET.search(rest):
                internet.append(f"{name}({rest}")
        elif not name.startswith("open") or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest):
            written.update(_names(rest))
    return Trace(code, out, err, frozenset(written), tuple(internet))


def _names(arguments: str) -> list[Path]:
    """All paths among a call's arguments; a name that says no folder stays relative, and so lies in no place."""
    names = [Path(match["folder"] or "", match["name"]) for match in NAME.finditer(arguments)]
    return [Path(os.path.normpath(name)) for name in names]
