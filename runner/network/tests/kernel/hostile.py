"""What a sandbox with raw sockets could send, and who hears it. Used by kernel.rs; standard library only.

hostile.py hear PATH               writes each marker that arrives at eth0, in whatever packet, to PATH
hostile.py listen PATH PORT        writes each marker that a UDP socket of this host gets, on any address, to PATH
hostile.py send MAC                sends packets from eth0 to the hardware address MAC, one for each line `KIND MARKER FROM TO` of its input
hostile.py claim ADDRESS MAC       ARP: ADDRESS is at this eth0's hardware address, to the hardware address MAC
hostile.py advertise               an IPv6 router advertisement to everybody
hostile.py chat ADDRESS PORT WAIT  for each line of its input sends and awaits a byte, and prints "open"; ends with 7 when no answer comes within WAIT seconds
"""

import ipaddress
import re
import socket
import struct
import sys
from pathlib import Path

MARKER = re.compile(rb"<([a-z0-9-]+)>")


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def own_mac() -> bytes:
    return bytes.fromhex(Path("/sys/class/net/eth0/address").read_text().strip().replace(":", ""))


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, offset: int = 0, more: bool = False, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    flags = (0x2000 if more else 0) | offset // 8
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 7, flags, 64, protocol, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    full = checksum(head + ends + options)
    return head[:10] + struct.pack("!H", full) + ends + options + payload


def udp(payload: bytes, port: int) -> bytes:
    return struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload


def tcp(source: str, target: str, payload: bytes, flags: int, port: int) -> bytes:
    head = struct.pack("!HHIIBBHHH", 4001, port, 1, 1, 0x50, flags, 1024, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 6, len(head) + len(payload))
    return head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:] + payload


def ipv6(source: str, target: str, following: int, payload: bytes, hops: int = 255) -> bytes:
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    at = {17: 6, 58: 2}[following]
    pseudo = ends + struct.pack("!II", len(payload), following)
    payload = payload[:at] + struct.pack("!H", checksum(pseudo + payload) or 0xFFFF) + payload[at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(payload), following, hops) + ends + payload


def packets(kind: str, marker: str, source: str, target: str, port: int) -> list[bytes]:
    text = f"<{marker}>".encode()
    if kind == "udp":
        return [ipv4(source, target, 17, udp(text, port))]
    if kind == "udp6":
        return [ipv6(source, target, 17, udp(text, port))]
    if kind == "fragments":
        whole = udp(text.ljust(64) + text, port)
        return [ipv4(source, target, 17, whole[:72], more=True), ipv4(source, target, 17, whole[72:], offset=72)]
    if kind == "lone-fragment":
        return [ipv4(source, target, 17, text, offset=800)]
    if kind in ("syn-ack", "ack"):
        return [ipv4(source, target, 6, tcp(source, target, text, {"syn-ack": 0x12, "ack": 0x10}[kind], port))]
    if kind == "icmp":
        body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + text
        return [ipv4(source, target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])]
    if kind == "icmp-error":
        # As if it answered a connection that nobody has: the quoted packet goes the other way.
        body = struct.pack("!BBHI", 3, 3, 0, 0) + ipv4(target, source, 17, udp(text, port))
        return [ipv4(source, target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])]
    if kind == "options":
        return [ipv4(source, target, 17, udp(text, port), options=b"\x83\x07\x04" + socket.inet_aton(target) + b"\0")]
    return [ipv4(source, target, {"gre": 47, "sixinfour": 41, "unknown": 253}[kind], text)]


def link(kind: int = 0x0003) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
    raw.bind(("eth0", 0) if kind != 0x0003 else ("eth0", kind))
    return raw


def write(path: str, data: bytes) -> None:
    for found in MARKER.findall(data):
        with Path(path).open("ab") as file:
            file.write(found + b"\n")


def main(task: str, *words: str) -> None:
    if task == "hear":
        raw = link()
        Path(words[0]).touch()
        while True:
            write(words[0], raw.recv(65535))
    elif task == "listen":
        listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        listener.bind(("::", int(words[1])))
        Path(words[0]).touch()
        while True:
            write(words[0], listener.recv(65535))
    elif task == "send":
        raw, head = link(0), mac(words[0]) + own_mac()
        for line in sys.stdin:
            kind, marker, source, target = line.split()
            for packet in packets(kind, marker, source, target, 9999):
                raw.send(head + (b"\x86\xdd" if kind.endswith("6") else b"\x08\x00") + packet)
    elif task == "claim":
        address, victim = words
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + own_mac() + socket.inet_aton(address) + mac(victim) + socket.inet_aton(address)
        link(0).send(mac(victim) + own_mac() + b"\x08\x06" + body)
    elif task == "advertise":
        prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + ipaddress.IPv6Address("fd66::").packed
        body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
        link(0).send(b"\x33\x33\0\0\0\x01" + own_mac() + b"\x86\xdd" + ipv6("fe80::66", "ff02::1", 58, body))
    elif task == "chat":
        talk = socket.create_connection((words[0], int(words[1])), 20)
        talk.settimeout(float(words[2]))
        for _ in sys.stdin:
            try:
                talk.send(b"x")
                answer = talk.recv(1)
            except OSError:
                sys.exit(7)
            if not answer:
                sys.exit(7)
            print("open", flush=True)


main(*sys.argv[1:])
