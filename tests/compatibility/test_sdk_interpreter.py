"""The SDK's code interpreter: state that lasts, contexts apart, errors by name."""

from __future__ import annotations

import contextlib

import pytest
from daytona import DaytonaError, DaytonaNotFoundError, DaytonaTimeoutError


@pytest.fixture
def context(sandbox):
    context = sandbox.code_interpreter.create_context(cwd="/tmp")
    yield context
    with contextlib.suppress(DaytonaNotFoundError):
        sandbox.code_interpreter.delete_context(context)


def test_state_lasts(sandbox):
    sandbox.code_interpreter.run_code("kept = 41")
    result = sandbox.code_interpreter.run_code("print(kept + 1)")
    assert (result.stdout, result.stderr, result.error) == ("42\n", "", None)


def test_streams_are_apart_and_told_as_they_come(sandbox):
    out, err = [], []
    code = "import sys\nprint('o')\nprint('e', file=sys.stderr)"
    result = sandbox.code_interpreter.run_code(code, on_stdout=lambda m: out.append(m.output), on_stderr=lambda m: err.append(m.output))
    assert (result.stdout, result.stderr) == ("o\n", "e\n")
    assert ("".join(out), "".join(err)) == ("o\n", "e\n")


def test_an_error_has_its_name(sandbox):
    result = sandbox.code_interpreter.run_code("raise ValueError('wrong number')")
    assert (result.error.name, result.error.value) == ("ValueError", "wrong number")
    assert "Traceback" in result.error.traceback
    assert sandbox.code_interpreter.run_code("print('still here')").stdout == "still here\n"


def test_environment_is_for_one_run(sandbox):
    read = "import os\nprint(os.environ.get('ONCE'))"
    assert sandbox.code_interpreter.run_code(read, envs={"ONCE": "yes"}).stdout == "yes\n"
    assert sandbox.code_interpreter.run_code(read).stdout == "None\n"


def test_contexts_are_apart(sandbox, context):
    sandbox.code_interpreter.run_code("where = 'default'")
    sandbox.code_interpreter.run_code("where = 'other'", context=context)
    assert sandbox.code_interpreter.run_code("print(where)").stdout == "default\n"
    assert sandbox.code_interpreter.run_code("import os\nprint(where, os.getcwd())", context=context).stdout == "other /tmp\n"
    assert context.id in [c.id for c in sandbox.code_interpreter.list_contexts()]
    sandbox.code_interpreter.delete_context(context)
    assert context.id not in [c.id for c in sandbox.code_interpreter.list_contexts()]
    with pytest.raises(DaytonaError):
        sandbox.code_interpreter.run_code("1", context=context)


def test_a_timeout_interrupts(sandbox, context):
    with pytest.raises(DaytonaTimeoutError):
        sandbox.code_interpreter.run_code("import time\ntime.sleep(60)", context=context, timeout=1)


def test_a_worker_that_dies_is_reported(sandbox, context):
    try:
        result = sandbox.code_interpreter.run_code("import os\nos._exit(3)", context=context)
    except DaytonaError as error:
        said = str(error)
    else:
        assert result.error is not None
        said = f"{result.error.name} {result.error.value}"
    assert said.strip()
    assert sandbox.code_interpreter.run_code("print('default lives')").stdout == "default lives\n"
