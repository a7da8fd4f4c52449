"""exec and code_run of the SDK: output, exit codes, environments, limits."""

from __future__ import annotations

import json
import time

import pytest
from daytona import CodeRunParams, CreateSandboxFromSnapshotParams, DaytonaTimeoutError
from daytona_toolbox_api_client.exceptions import ApiException

from support import eventually


def run(sandbox, command: str, **keywords):
    answer = sandbox.process.exec(command, **keywords)
    return answer.exit_code, answer.result


@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 128, 255])
def test_exit_codes(sandbox, code):
    assert run(sandbox, f"exit {code}") == (code, "")


def test_signals(sandbox):
    """The contract has -1 for a shell that a signal killed; what a shell says of its children is its own."""
    assert run(sandbox, "kill -KILL $$")[0] == -1
    assert run(sandbox, "sh -c 'kill -KILL $$'; exit $?")[0] == 137


def test_output_and_errors(sandbox):
    code, text = run(sandbox, "echo out; echo err >&2")
    assert code == 0
    assert sorted(text.split()) == ["err", "out"]


def test_working_directory(sandbox):
    assert run(sandbox, "pwd", cwd="/tmp") == (0, "/tmp\n")
    assert run(sandbox, "pwd") == (0, "/home/daytona\n")


def test_environment(sandbox):
    assert run(sandbox, 'echo "$A-$B"', env={"A": "1 2", "B": "quo'te"}) == (0, "1 2-quo'te\n")


def test_a_script_with_a_here_document(sandbox):
    script = "python3 - <<'EOF'\nimport time\ntime.sleep(0.2)\nprint('from python')\nEOF\necho after"
    assert run(sandbox, script) == (0, "from python\nafter\n")


def test_standard_input_is_empty(sandbox):
    assert run(sandbox, "cat; echo done", timeout=10) == (0, "done\n")


def test_a_command_larger_than_an_argument_may_be(sandbox):
    text = "x" * 300_000
    assert run(sandbox, f"printf %s {text} | wc -c") == (0, "300000\n")


def test_large_output(sandbox):
    code, text = run(sandbox, "seq 1 200000")
    assert code == 0
    assert text.splitlines()[-1] == "200000"


def test_a_timeout_kills_the_tree_and_says_so(sandbox):
    started = time.monotonic()
    with pytest.raises(DaytonaTimeoutError, match=r"(?i)timeout|timed out"):
        sandbox.process.exec("sleep 4321 & sleep 4321", timeout=1)
    assert time.monotonic() - started < 30
    # What was killed is gone when it has had the processor once more.
    eventually(lambda: run(sandbox, "pgrep -fc 'sleep 432[1]'")[1] == "0\n", "the tree to be gone")


def test_a_directory_that_is_missing(sandbox):
    code, text = run(sandbox, "true", cwd="/no/such/directory")
    assert code == -1
    assert "/no/such/directory" in text


def test_bytes_that_are_no_text_do_not_break_the_answer(sandbox):
    code, text = run(sandbox, r"printf 'a\377b'")
    assert code == 0
    assert text.startswith("a")
    assert text.endswith("b")


def test_code_run(sandbox):
    answer = sandbox.process.code_run("import json\nprint(json.dumps({'a': [1, 2]}))")
    assert json.loads(answer.result.strip()) == {"a": [1, 2]}
    assert answer.exit_code == 0


def test_code_run_with_arguments_and_environment(sandbox):
    params = CodeRunParams(argv=["x y", "'z'"], env={"A": "b"})
    answer = sandbox.process.code_run("import os, sys\nprint(sys.argv[1:], os.environ['A'])", params)
    assert answer.result.strip() == repr(["x y", "'z'"]) + " b"


def test_code_run_errors(sandbox):
    answer = sandbox.process.code_run("def broken(:\n  pass")
    assert answer.exit_code != 0
    assert "SyntaxError" in answer.result
    answer = sandbox.process.code_run("import sys\nprint('to stderr', file=sys.stderr)\nsys.exit(5)")
    assert answer.exit_code == 5
    assert "to stderr" in answer.result


def test_code_run_timeout(sandbox):
    # The one call of the SDK that does not translate errors.
    with pytest.raises(ApiException) as error:
        sandbox.process.code_run("import time\ntime.sleep(60)", timeout=1)
    assert error.value.status == 408


def test_charts_come_back(sandbox):
    code = "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1.5, 2])\nplt.title('two bars')\nplt.show()"
    charts = sandbox.process.code_run(code).artifacts.charts
    assert [(str(c.type), c.title) for c in charts] in ([("bar", "two bars")], [("ChartType.BAR", "two bars")])
    assert [(e.label, float(e.value)) for e in charts[0].elements] == [("a", 1.5), ("b", 2.0)]
    assert charts[0].png


@pytest.mark.parametrize(
    ("language", "code", "result"),
    [
        ("javascript", "const [, a] = process.argv; console.log(1 + 1, typeof a)", "2"),
        ("typescript", "const n: number = 41; enum E { A = 1 }; console.log(n + E.A)", "42"),
    ],
)
def test_other_languages(daytona, language, code, result):
    sandbox = daytona.create(CreateSandboxFromSnapshotParams(language=language))
    try:
        answer = sandbox.process.code_run(code)
        assert answer.exit_code == 0, answer.result
        assert answer.result.split()[0] == result
    finally:
        daytona.delete(sandbox)


def test_a_hundred_commands_leave_no_zombie(sandbox):
    for i in range(100):
        assert run(sandbox, f"(true &) ; exit {i % 3}")[0] == i % 3
    # The last of them may still be running, or have just ended.
    eventually(lambda: run(sandbox, "ps -eo stat= | grep -c ^Z")[1] == "0\n", "every one of them to be reaped")
