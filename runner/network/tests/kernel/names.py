"""A name server, and a client that asks without a library between. Used by names.rs; standard library only.

names.py serve LOG INTERNET HOST        answers over UDP and TCP on the loopback by a name's first label; prints its port, and writes each name it was asked for to LOG
names.py ask NAME [udp|tcp] [TYPE] [once]
                                        prints the response code and the number of answers; the server asked does not exist. Silence and a failed server are asked again
names.py hold COUNT                     opens COUNT idle TCP connections to a name server; prints "held" and keeps them until it is ended
"""

import contextlib
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from pathlib import Path

NOWHERE = ("198.51.100.53", 53)


def address(text: str) -> bytes:
    return b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04" + socket.inet_aton(text)


def answer(query: bytes, internet: str, host: str, log: str) -> bytes:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    with Path(log).open("a") as file:
        file.write(".".join(labels) + "\n")
    own = {"meta": ["169.254.169.254"], "host": [host], "lan": ["10.99.0.1"], "mixed": [internet, host]}
    records = [address(a) for a in own.get(labels[0], [internet])]
    if labels[0] == "alias":
        # An alias of a name that is not listed, and that name's address: `real` and the rest of the question's name.
        target = b"\x04real\xc0" + bytes([12 + 1 + len(labels[0])])
        records = [b"\xc0\x0c\0\x05\0\x01\0\0\0\x05" + struct.pack("!H", len(target)) + target, b"\x04real" + records[0]]
        records[1] = b"\xc0" + bytes([at + 5 + 12]) + records[1][7:]
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0) + query[12 : at + 5] + b"".join(records)


def serve(log: str, internet: str, host: str) -> None:
    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request[1].sendto(answer(self.request[0], internet, host, log), self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.read(2):
                said = answer(self.rfile.read(int.from_bytes(head, "big")), internet, host, log)
                self.wfile.write(len(said).to_bytes(2, "big") + said)

    while True:
        streams = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stream)
        try:
            datagrams = socketserver.UDPServer(streams.server_address, Datagram)
            break
        except OSError:
            # Somebody has that port of the other protocol.
            streams.server_close()
    threading.Thread(target=streams.serve_forever, daemon=True).start()
    print(streams.server_address[1], flush=True)
    datagrams.serve_forever()


def exchange(query: bytes, way: str) -> bytes:
    """What is said to a query within three seconds; nothing, if nothing is."""
    with contextlib.suppress(OSError):
        if way == "tcp":
            with socket.create_connection(NOWHERE, 3) as stream:
                stream.sendall(len(query).to_bytes(2, "big") + query)
                return stream.recv(65535)[2:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(3)
            datagrams.sendto(query, NOWHERE)
            return datagrams.recv(65535)
    return b""


def ask(name: str, way: str = "udp", kind: str = "1", times: str = "") -> None:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + labels + b"\0" + struct.pack("!HH", int(kind), 1)
    end = time.monotonic() + (0 if times == "once" else 30)
    while not (said := exchange(query, way)) or said[3] & 15 == 2:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    if said:
        print(said[3] & 15, said[7])


def hold(count: str) -> None:
    kept = []
    for _ in range(int(count)):
        with contextlib.suppress(OSError):
            kept.append(socket.create_connection(NOWHERE, 1))
    print("held", flush=True)
    signal.pause()


{"serve": serve, "ask": ask, "hold": hold}[sys.argv[1]](*sys.argv[2:])
