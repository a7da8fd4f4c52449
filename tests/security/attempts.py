"""Runs inside a sandbox, as root there: everything that would lead out of it, each tried for real. Prints what was not denied, as JSON.

Denied is what the kernel refuses for want of a right, or does not have. Any other answer, a complaint about an argument included, means that the way
is open. The numbers of calls are those of x86_64. Standard library only.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
DENIED = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def call(number: int, *arguments: object) -> None:
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def forked(work: Callable[[], None]) -> None:
    """Does it in a child, which may leave its namespaces."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OSError as error:
            os._exit(1 if error.errno in DENIED else 0)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1:
        refused()


def write(path: str, text: str) -> None:
    with open(path, "r+b", buffering=0) as file:  # noqa: PTH123
        file.write(text.encode())


def rewrite(path: str) -> None:
    """Writes what is there already: harmless where it succeeds."""
    write(path, Path(path).read_text())


def readable(path: str) -> None:
    if not Path(path).read_bytes():
        refused()


def node(kind: int, major: int, minor: int) -> None:
    path = "/tmp/attempt-device"
    try:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
    finally:
        Path(path).unlink(missing_ok=True)


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, None):
        raise OSError(ctypes.get_errno(), "refused")


def routing(kind: int, body: bytes) -> None:
    """One rtnetlink request that wants an acknowledgement."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
        error = struct.unpack_from("=i", kernel.recv(4096), 16)[0]
        if error:
            raise OSError(-error, "refused")


def index() -> int:
    return socket.if_nametoindex("eth0")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def rules() -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:
        # An nf_tables batch that adds a table.
        table = struct.pack("=IHHII", 28, 0xA00, 0x405, 2, 0) + struct.pack("!BBH", 1, 0, 0) + attribute(1, b"x\0")
        edges = [struct.pack("=IHHII", 20, kind, 1, n, 0) + struct.pack("!BBH", 0, 0, 10) for kind, n in ((0x10, 1), (0x11, 3))]
        kernel.send(edges[0] + table + edges[1])
        error = struct.unpack_from("=i", kernel.recv(4096), 16)[0]
        if error:
            raise OSError(-error, "refused")


def foreign(source: str) -> None:
    """Sends from an address that is not ours, as anybody may try."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
        sock.bind((source, 0))
        try:
            sock.sendto(b"x", (sys.argv[1], 9999))
        except OSError as error:
            # There is no route from an address that is not here.
            raise PermissionError(errno.EPERM, "no route") from error


def transparent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, 19, 1)


def marked() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 36, 999)


def cgroup() -> None:
    top = Path("/sys/fs/cgroup")
    place = next(d for d in (top / "memory", top / "unified", top) if d.is_dir())
    (place / "attempt").mkdir()
    (place / "attempt").rmdir()


ATTEMPTS: dict[str, Callable[[], None]] = {
    # Sockets that make packets of one's own, and the network's configuration.
    "raw IP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "raw IPv6 socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).close(),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
    "transparent socket": transparent,
    "mark of packets": marked,
    "another's source address": lambda: foreign(sys.argv[2]),
    "another hardware address": lambda: routing(16, struct.pack("=BxHiII", 0, 0, index(), 0, 0) + attribute(1, b"\x02\0\0\0\0\x07")),
    "another IP address": lambda: routing(20, struct.pack("=BBBBI", 2, 16, 0, 0, index()) + attribute(2, socket.inet_aton(sys.argv[2]))),
    "another neighbour": lambda: routing(28, struct.pack("=BxxxiHBB", 2, index(), 2, 0, 0) + attribute(1, socket.inet_aton(sys.argv[2])) + attribute(2, bytes(6))),
    "another route": lambda: routing(24, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0) + attribute(1, socket.inet_aton(sys.argv[1]))),
    "packet filter": rules,
    "IPv6 switched on": lambda: write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0"),
    "forwarding switched on": lambda: rewrite("/proc/sys/net/ipv4/ip_forward"),
    # Namespaces and mounts.
    "user namespace": lambda: forked(lambda: call(272, 0x10000000)),
    "mount namespace": lambda: forked(lambda: call(272, 0x00020000)),
    "network namespace": lambda: forked(lambda: call(272, 0x40000000)),
    "cgroup namespace": lambda: forked(lambda: call(272, 0x02000000)),
    "entering a namespace": lambda: forked(lambda: call(308, os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)),
    "mount of tmpfs": lambda: forked(lambda: mount("none", "/mnt", "tmpfs")),
    "mount of proc": lambda: forked(lambda: mount("proc", "/mnt", "proc")),
    "mount of cgroup": lambda: forked(lambda: mount("none", "/mnt", "cgroup2")),
    "remount of proc": lambda: forked(lambda: mount("none", "/proc/sys", "", 32 | 4096)),
    "unmount of a mask": lambda: forked(lambda: call(166, b"/proc/kcore", 2)),
    "another root": lambda: forked(lambda: call(155, b"/", b"/")),
    "new mount interface": lambda: call(430, b"tmpfs", 0),
    # Devices.
    "block device": lambda: node(0o060000, 8, 0),
    "memory device": lambda: node(0o020000, 1, 1),
    "fuse device": lambda: node(0o020000, 10, 229),
    "kernel log device": lambda: readable("/dev/kmsg"),
    "memory of the machine": lambda: readable("/dev/mem"),
    # What the kernel shows and takes.
    "core pattern": lambda: rewrite("/proc/sys/kernel/core_pattern"),
    "module loader's path": lambda: rewrite("/proc/sys/kernel/modprobe"),
    "magic key": lambda: write("/proc/sysrq-trigger", "h"),
    "event helper": lambda: rewrite("/sys/kernel/uevent_helper"),
    "release agent": lambda: rewrite("/sys/fs/cgroup/memory/release_agent"),
    "own memory limit": lambda: write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "-1"),
    "own memory limit, version 2": lambda: write("/sys/fs/cgroup/memory.max", "max"),
    "own processes limit": lambda: write("/sys/fs/cgroup/pids/pids.max", "max"),
    "another cgroup": cgroup,
    "kernel memory": lambda: readable("/proc/kcore"),
    "kernel messages": lambda: call(103, 3, ctypes.create_string_buffer(4096), 4096),
    "keys of others": lambda: readable("/proc/keys"),
    "firmware tables": lambda: readable("/sys/firmware/dmi/tables/DMI"),
    "serial number": lambda: readable("/sys/devices/virtual/dmi/id/product_uuid"),
    "timers": lambda: readable("/proc/timer_list"),
    "swap": lambda: call(167, b"/swap", 0),
    # Calls that reach into the kernel.
    "new key": lambda: call(248, b"user", b"attempt", b"x", 1, -3),
    "keyring": lambda: call(250, 0, -3, 1),
    "wanted key": lambda: call(249, b"user", b"attempt", None, -3),
    "kernel module": lambda: call(175, b"", 0, b""),
    "kernel module from a file": lambda: call(313, 0, b"", 0),
    "new kernel": lambda: call(246, 0, 0, None, 0),
    "eBPF program": lambda: call(321, 0, ctypes.create_string_buffer(128), 128),
    "performance events": lambda: call(298, ctypes.create_string_buffer(struct.pack("=II", 1, 128), 128), 0, -1, -1, 0),
    "file by handle": lambda: call(304, -100, ctypes.create_string_buffer(128), 0),
    "page faults": lambda: call(323, 0),
    "clock": lambda: call(227, 0, ctypes.create_string_buffer(struct.pack("=qq", int(time.time()), 0), 16)),
    "reboot": lambda: call(169, 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0),
    "ports of the machine": lambda: call(172, 3),
    "accounting": lambda: call(163, b"/tmp/attempt-accounts"),
    "higher priority": lambda: os.nice(-5),
    "higher limit": lambda: higher_limit(),
    "less likely out of memory": lambda: rewrite_score(),
    # Only the sandbox's own processes are there.
    "processes of others": lambda: readable("/proc/2/comm") if Path("/proc/2/comm").read_text().startswith("kthreadd") else refused(),
    # The way back out of a setuid program: capabilities that the bounding set lost.
    "capability of raw packets by a file": lambda: raising(),
}


def refused() -> None:
    raise PermissionError(errno.EPERM, "refused")


def higher_limit() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 40, 1 << 40))
    except ValueError:
        refused()


def rewrite_score() -> None:
    write("/proc/self/oom_score_adj", str(int(Path("/proc/self/oom_score_adj").read_text()) - 500))


def raising() -> None:
    """A program with the file capability of raw sockets, which the owner of a file may well write onto it."""
    path = "/tmp/attempt-program"
    Path(path).write_bytes(Path("/bin/true").read_bytes())
    Path(path).chmod(0o755)
    try:
        os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))
        forked(lambda: os.execv(path, [path]))
    finally:
        Path(path).unlink()


def main() -> None:
    open_ways = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except OSError as error:
            if error.errno not in DENIED:
                open_ways.append(f"{name}: {error}")
        else:
            open_ways.append(name)
    print(json.dumps({"tried": len(ATTEMPTS), "open": open_ways}))


main()
