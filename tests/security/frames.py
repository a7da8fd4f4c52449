"""Runs inside a sandbox that has raw sockets: sends frames of every kind, with the addresses of others. Prints how many the kernel took, as JSON.

Arguments: the gateway's hardware address, a neighbour's address, one far away, the gateway's, and a word that each packet begins with. What a packet
says is `<word>-<whose hardware address>-<whose address>-<kind>`. Standard library only.
"""

import contextlib
import fcntl
import json
import socket
import struct
import sys

gate, neighbour, far, gateway, word = sys.argv[1:]
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
out.bind(("eth0", 0))


def own(request: int) -> bytes:
    """This interface's address (netdevice(7))."""
    return fcntl.ioctl(out, request, struct.pack("256s", b"eth0"))[18:24]


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: bytes, target: bytes, protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(payload), 7, fragment, 64, protocol, 0, source, target)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(port: int, text: str) -> bytes:
    return struct.pack("!HHHH", 7777, port, 8 + len(text), 0) + text.encode()


def tcp(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 7777, 8080, 1, 1, 80, flags, 1024, 0, 0)


mine = (own(0x8927), own(0x8915)[2:6])
macs = {"own": mine[0], "forged": mac("02:13:37:00:00:01"), "gates": mac(gate), "neighbours": mac("02:42:") + socket.inet_aton(neighbour)}
ips = {"own": mine[1], "neighbours": socket.inet_aton(neighbour), "gates": socket.inet_aton(gateway), "nobodys": socket.inet_aton("172.20.254.254"), "far": socket.inet_aton(far)}
there, here = socket.inet_aton(far), socket.inet_aton(gateway)
sent = 0


def send(source: bytes, kind: int, payload: bytes, target: bytes = mac(gate)) -> None:
    global sent
    with contextlib.suppress(OSError):
        out.send(target + source + struct.pack("!H", kind) + payload)
        sent += 1


for whose, hardware in macs.items():
    for of, address in ips.items():
        says = f"{word}-{whose}-{of}"
        send(hardware, 0x800, ip(address, there, 17, udp(9999, f"{says}-udp")))
        send(hardware, 0x800, ip(address, here, 17, udp(9998, f"{says}-host")))
        send(hardware, 0x800, ip(address, socket.inet_aton("255.255.255.255"), 17, udp(9998, f"{says}-all")), b"\xff" * 6)
        send(hardware, 0x800, ip(address, there, 6, tcp(2)))
        send(hardware, 0x800, ip(address, there, 6, tcp(18)))
        # A packet in two pieces, and a VLAN's frame around one.
        whole = udp(9999, f"{says}-split-in-two-pieces")
        send(hardware, 0x800, ip(address, there, 17, whole[:16], 0x2000))
        send(hardware, 0x800, ip(address, there, 17, whole[16:], 2))
        send(hardware, 0x8100, struct.pack("!HH", 1, 0x800) + ip(address, there, 17, udp(9999, f"{says}-vlan")))
        # "That address is me", to everybody.
        send(hardware, 0x806, struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, hardware, address, b"\xff" * 6, address), b"\xff" * 6)
if word == "open":
    send(mine[0], 0x800, ip(mine[1], there, 17, udp(9999, "open-own-own-last")))
print(json.dumps({"sent": sent}))
