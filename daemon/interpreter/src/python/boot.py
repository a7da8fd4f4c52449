import os
channel = os.dup(0)
nothing = os.open("/dev/null", os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
def read(n):
    data = bytearray()
    while len(data) < n:
        piece = os.read(channel, min(n - len(data), 1 << 20))
        if not piece:
            raise SystemExit
        data += piece
    return bytes(data)
exec(compile(read(int.from_bytes(read(4), "big")), "<interpreter>", "exec"), {"__name__": "interpreter", "channel": channel, "read": read})
