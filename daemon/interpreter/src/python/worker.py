"""The worker of one interpreter context: runs pieces of code in one namespace, one after the other.

The daemon starts `python3 -u -c BOOT`, whose few lines read this file from descriptor 0, a socket, and run it with two names defined:
`channel`, a private copy of that socket, and `read(n)`, which reads exactly n bytes from it. So nothing lies on disk, and the protocol has a
descriptor of its own that children do not inherit.

Descriptors 1 and 2 are pipes to the daemon. Python's own streams write to them, and so does every child process and C extension: what a program
writes to standard output stays in order, whoever wrote it.

Frames, both ways: length (4 bytes, big endian, of what follows), kind (1), execution (8), payload.
  daemon -> worker   R  run: JSON {"code": ..., "envs": {...}}
  worker -> daemon   Y  ready, execution 0
                     I  KeyboardInterrupt was raised in the code
                     E  an exception: JSON {"name": ..., "value": ..., "traceback": ...}
                     D  done: "completed" or "interrupted"; everything the code wrote is in the pipes by then
"""

import array
import builtins
import fcntl
import io
import json
import linecache
import os
import signal
import sys
import termios
import time
import traceback
import types

FILE = "<stdin>"
PID = os.getpid()
# How long a stream may take to be read before the other one is written, in seconds: while it is, and once it was not.
PATIENT, HASTY = 5, 0.005


class Pipe(io.FileIO):
    """A standard stream's raw end.

    Output and error are two pipes, so nothing but timing orders them against each other. When the program turns from one to the other, the first
    is given time to be read, which the daemon does as soon as it has a processor, unless its client is slow: that is waited for once, and not at each turn.
    """

    last = None
    patience = PATIENT

    def write(self, data):
        before = Pipe.last
        if before is not None and before is not self:
            unread = array.array("i", [0])
            began = time.monotonic()
            try:
                while True:
                    fcntl.ioctl(before.fileno(), termios.FIONREAD, unread)
                    waited = time.monotonic() - began
                    if not unread[0] or waited >= Pipe.patience:
                        Pipe.patience = HASTY if unread[0] else PATIENT
                        break
                    time.sleep(0 if waited < 0.001 else 0.0005)
            except (OSError, ValueError):
                # The code has closed it.
                pass
        Pipe.last = self
        return super().write(data)


class NoInput(io.StringIO):
    """Standard input: empty, and input() says why."""

    def readline(self, *args):
        raise EOFError("EOF when reading a line: the interpreter has no standard input")


def open_stream(descriptor, name):
    raw = Pipe(descriptor, "wb", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw, 1024), encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )
    # Text that does not end a line is handed on from this size.
    stream._CHUNK_SIZE = 1024
    stream.mode = "w"
    raw.name = name
    return stream


def fresh_streams():
    """Undoes what earlier code did to the standard streams."""
    global output, errors
    if output.closed:
        output = open_stream(1, "<stdout>")
    if errors.closed:
        errors = open_stream(2, "<stderr>")
    sys.stdin, sys.stdout, sys.stderr = NoInput(), output, errors


def flush():
    # Also what the code may have put in place of the streams.
    for stream in (sys.stdout, sys.stderr, output, errors):
        try:
            stream.flush()
        except Exception:
            pass


def send(kind, execution, payload):
    frame = kind + execution.to_bytes(8, "big") + payload
    frame = memoryview(len(frame).to_bytes(4, "big") + frame)
    while frame:
        frame = frame[os.write(channel, frame):]


def text(value):
    """str(value), which may fail, or hold what UTF-8 cannot."""
    try:
        value = str(value)
    except Exception:
        value = "<the exception cannot be printed>"
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def code_objects(code):
    """This code object and all that it holds: functions, classes, comprehensions."""
    found = [code]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.extend(code_objects(constant))
    return found


def strip(summary, error, mine):
    """Leaves only the frames of user code in a traceback and in those that it is chained to."""
    seen = set()
    while summary is not None and id(summary) not in seen:
        seen.add(id(summary))
        frames = [frame for frame in traceback.walk_tb(error.__traceback__) if frame[0].f_code.co_filename == FILE]
        summary.stack = traceback.StackSummary.from_list(
            [
                # Code of an earlier execution has the same file name, and its lines are not known any more.
                traceback.FrameSummary(
                    FILE,
                    line,
                    frame.f_code.co_name,
                    lookup_line=False,
                    line=linecache.getline(FILE, line).strip() if frame.f_code in mine else "",
                )
                for frame, line in frames
            ]
        )
        if summary.__cause__ is not None:
            summary, error = summary.__cause__, error.__cause__
        else:
            summary, error = summary.__context__, error.__context__


def describe(error, code):
    name = type(error).__name__
    mine = set(code_objects(code)) if code is not None else set()
    try:
        summary = traceback.TracebackException.from_exception(error)
        strip(summary, error, mine)
        if summary.stack or isinstance(error, SyntaxError):
            trace = "".join(summary.format() if summary.stack else summary.format_exception_only())
        else:
            trace = "%s: %s" % (name, text(error))
    except Exception:
        trace = "%s: %s" % (name, text(error))
    described = {"name": text(name), "value": text(error), "traceback": text(trace)}
    return json.dumps(described).encode()


def on_interrupt(number, frame):
    # An interrupt that comes too late, when its execution is over, must not hit the next one or the loop.
    if interruptible:
        if os.getpid() == PID:
            send(b"I", running, b"")
        raise KeyboardInterrupt


def run(execution, source, envs):
    """Runs one piece of code; returns the control word."""
    global interruptible, running
    running = execution
    code = None
    saved = {name: os.environ.get(name) for name in envs}
    fresh_streams()
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        try:
            os.environ.update(envs)
            linecache.cache[FILE] = (len(source), None, source.splitlines(True), FILE)
            interruptible = True
            code = compile(source, FILE, "exec", dont_inherit=True)
            exec(code, namespace)
        finally:
            interruptible = False
    except KeyboardInterrupt:
        return b"interrupted"
    except SystemExit:
        pass
    except BaseException as error:
        flush()
        if os.getpid() == PID:
            send(b"E", execution, describe(error, code))
        # The traceback holds the frames, and they all their values.
        error.__traceback__ = None
    finally:
        interruptible = False
        flush()
        if os.getpid() != PID:
            # A child that os.fork() made and that came to the end of the code must not go on as a second worker.
            os._exit(0)
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return b"completed"


def main():
    send(b"Y", 0, b"")
    while True:
        frame = read(int.from_bytes(read(4), "big"))
        execution = int.from_bytes(frame[1:9], "big")
        request = json.loads(frame[9:])
        control = run(execution, request["code"], request["envs"])
        send(b"D", execution, control)


interruptible, running = False, 0
signal.signal(signal.SIGINT, on_interrupt)
output, errors = open_stream(1, "<stdout>"), open_stream(2, "<stderr>")
program = types.ModuleType("__main__")
program.__builtins__ = builtins
namespace = program.__dict__
sys.modules["__main__"] = program
sys.argv = [""]
main()
