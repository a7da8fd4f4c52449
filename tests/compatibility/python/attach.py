"""Makes or attaches to the terminal argv[3] of the sandbox argv[2] (argv[1]: create or connect), says so, types argv[4], and prints what it gets."""

import sys

from daytona import Daytona

how, sandbox, name, text = sys.argv[1:]
process = Daytona().get(sandbox).process
terminal = process.create_pty_session(name) if how == "create" else process.connect_pty_session(name)
print("attached", flush=True)
if text:
    terminal.send_input(text)
terminal.wait(on_data=lambda data: (sys.stdout.buffer.write(data), sys.stdout.flush()))
