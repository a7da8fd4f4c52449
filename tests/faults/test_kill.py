"""kill -9 of the real `pinfold run` at each step of each job, beside the real engine: the next start finishes what was begun, and loses nothing.

A step is a call that changes the engine. The engine has done it, and the runner is dead before it hears of that: the hardest moment, because the
effect is there and nobody knows. Other moments are those at which a file or the kernel's rules show what the runner has just done.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from node import Node, Registry
from support import docker, eventually, inspect

pytestmark = [pytest.mark.faults, pytest.mark.timeout(170)]

#: More than any job has.
MOST_STEPS = 12


@pytest.fixture(scope="module")
def registry(node: Node) -> Iterator[Registry]:
    registry = Registry(node.directory)
    yield registry
    registry.close()
    for image in docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        if registry.host in image or image.startswith("daytona-pfkill"):
            docker("rmi", image, check=False)


@pytest.fixture
def kept(node: Node) -> Iterator[str]:
    """A sandbox with a closed network and something to lose."""
    sandbox = node.sandbox(networkBlockAll=True)
    assert node.run(sandbox, "echo precious > /work; cat /work") == "precious\n"
    yield sandbox
    node.engine.reset()
    node.job("DESTROY_SANDBOX", sandbox)
    node.nothing_left()


@dataclass
class Case:
    """A job: what it is, and how a push-mode control plane asks for the same."""

    kind: str
    payload: Callable[[Node, str, dict], dict | None] = lambda *_: None
    #: The path after the sandbox's, for the other generation.
    route: str | None = None
    running: bool | None = None
    #: Jobs about images have images as their resource.
    resource: Callable[[str, dict], str] = field(default=lambda sandbox, _: sandbox)


def pulled(account: dict) -> str:
    return f"{account['url']}/p/daytona-pulled:daytona"


CASES = {
    "start": Case("START_SANDBOX", lambda *_: {"authToken": "x"}, "start", running=False),
    "stop": Case("STOP_SANDBOX", lambda *_: {}, "stop", running=True),
    "forced stop": Case("STOP_SANDBOX", lambda *_: {"force": True}, "stop", running=True),
    "resize": Case("RESIZE_SANDBOX", lambda *_: {"cpu": 2, "memory": 2}, "resize", running=True),
    "disk": Case("RESIZE_SANDBOX", lambda *_: {"disk": 5}, "resize", running=False),
    "recovery": Case("RECOVER_SANDBOX", lambda *_: {"errorReason": "write: no space left on device", "storageQuota": 3}, "recover", running=True),
    "snapshot": Case("SNAPSHOT_SANDBOX", lambda n, s, a: {"sandboxId": s, "organizationId": "o", "name": "s", "registry": a}, "snapshot-from-sandbox", running=True),
    "backup": Case("CREATE_BACKUP", lambda n, s, a: {"snapshot": f"{a['url']}/p/backup-x:1", "registry": a}, running=True),
    "pull": Case(
        "PULL_SNAPSHOT",
        lambda n, s, a: {"snapshot": f"{a['url']}/p/backup-x:1", "registry": a, "destinationRegistry": a, "destinationRef": pulled(a)},
        resource=lambda _, a: pulled(a),
    ),
    "build": Case(
        "BUILD_SNAPSHOT",
        lambda n, s, a: {
            "snapshot": "daytona-pfkill:daytona", "dockerfile": f"FROM {n.image}\nRUN echo {uuid.uuid4()} > /x\n",
            "organizationId": "o", "context": [], "pushToInternalRegistry": True, "registry": a,
        },
        resource=lambda *_: "daytona-pfkill:daytona",
    ),
    "removal of a snapshot": Case("REMOVE_SNAPSHOT", resource=lambda _, a: pulled(a)),
}  # fmt: skip


def bury(node: Node) -> None:
    """The runner is dead. What runs is judged by rules all the same."""
    node.buried()
    node.engine.reset()
    node.plane.on_result = lambda _: False
    node.plane.on_claim = lambda _: False
    node.plane.forget_polls()
    judged = node.judged()
    for name in node.containers():
        # The engine goes on with what it was asked for: what ran when it was listed may be on its way out. One look says whether it runs, and where.
        with contextlib.suppress(subprocess.CalledProcessError):
            seen = inspect(name)
            addresses = {n["IPAddress"] for n in seen["NetworkSettings"]["Networks"].values()}
            assert not seen["State"]["Running"] or addresses <= judged, f"{name} runs without rules: {addresses} of {judged}"


def dies_at(node: Node, step: int) -> None:
    """Kills the runner when the engine has done that step, before the runner hears of it."""
    seen = 0

    def after(_: str) -> bool:
        nonlocal seen
        seen += 1
        if seen <= step:
            return True
        node.kill()
        return False

    node.engine.reset()
    node.engine.after = after


def push(node: Node, case: Case, sandbox: str, account: dict) -> str:
    return node.plane.push(case.kind, case.resource(sandbox, account), case.payload(node, sandbox, account))


def dead_or_done(node: Node, job: str) -> bool:
    """Whether the runner was killed, rather than done with the job."""
    eventually(lambda: node.dead.is_set() or node.plane.told.get(job), f"{node.plane.jobs[job]['type']} to get somewhere", 60)
    return node.dead.is_set()


def finished(node: Node, job: str, what: str) -> None:
    node.start()
    ended = node.plane.result(job)
    assert ended["status"] == "COMPLETED", f"{what}: {ended}"
    assert node.plane.told[job] == 1, f"{what}: told {node.plane.told[job]} times"


def bring(node: Node, sandbox: str, running: bool | None) -> None:
    """Puts a sandbox into the state that a case begins with."""
    node.engine.reset()
    if running is not None and inspect(sandbox)["State"]["Running"] != running:
        node.job("START_SANDBOX" if running else "STOP_SANDBOX", sandbox, {})


def intact(node: Node, sandbox: str, what: str) -> None:
    state = inspect(sandbox)["State"]
    assert not state["Paused"], f"{what}: left frozen"
    if state["Running"]:
        assert node.run(sandbox, "cat /work") == "precious\n", what
    else:
        copied = node.directory / "work"
        docker("cp", f"{sandbox}:/work", str(copied))
        assert copied.read_text() == "precious\n", what


@pytest.mark.parametrize("name", CASES)
def test_killed_at_each_step_of_a_job(node, registry, kept, name):
    case, account = CASES[name], registry.account()
    if name == "pull":
        node.job("CREATE_BACKUP", kept, CASES["backup"].payload(node, kept, account))
    if name == "removal of a snapshot":
        docker("tag", node.image, pulled(account))
    closed = node.rules(kept)
    assert closed
    for step in range(MOST_STEPS):
        bring(node, kept, case.running)
        dies_at(node, step)
        job = push(node, case, kept, account)
        killed = dead_or_done(node, job)
        what = f"{name}, killed after {node.engine.steps[-1:]}"
        if not killed:
            break
        bury(node)
        assert node.rules(kept) == closed, what
        finished(node, job, what)
        assert node.rules(kept) == closed, what
        intact(node, kept, what)
    assert step > 0, "it was never killed"


def test_killed_at_each_step_of_creates_and_destroys(node):
    """And between its own writes: of the record, and of the rules."""
    made = []

    def record(sandbox: str) -> bool:
        return (node.data / "sandboxes" / f"{sandbox}.json").exists()

    def rules(sandbox: str) -> bool:
        return node.rules(sandbox) != ""

    def create(kill: Callable[[str], None], what: str) -> None:
        sandbox = str(uuid.uuid4())
        node.engine.reset()
        kill(sandbox)
        job = node.plane.push("CREATE_SANDBOX", sandbox, node.create_payload(sandbox, networkBlockAll=True))
        assert dead_or_done(node, job), f"{what}: it was not killed"
        bury(node)
        finished(node, job, what)
        assert [name for name in node.containers() if name.startswith(sandbox)] == [sandbox], what
        assert node.run(sandbox, "echo up") == "up\n", what
        assert "drop" in node.rules(sandbox), f"{what}: its network is open"
        made.append(sandbox)

    def when(seen: Callable[[str], bool], what: str) -> Callable[[str], None]:
        def kill(sandbox: str) -> None:
            def before(_: str) -> bool:
                # The engine is not asked before the runner has written what is waited for.
                with contextlib.suppress(AssertionError):
                    eventually(lambda: seen(sandbox), what, 30)
                    node.kill()
                return False

            node.engine.before = before

        return kill

    def claimed(_: str) -> None:
        node.plane.on_claim = lambda _: node.kill() is None

    def told(_: str) -> None:
        node.plane.on_result = lambda _: node.kill() is None

    create(claimed, "when it had claimed the job")
    create(when(record, "the record"), "when it had written the record")
    create(when(rules, "the rules"), "when its rules were in the kernel")
    for step, what in enumerate(("the engine's create", "the engine's start")):
        create(lambda _, step=step: dies_at(node, step), f"after {what}")
    create(told, "when its result was on its way")
    # Now the same sandboxes are destroyed.
    for kill, what in ((lambda _: dies_at(node, 0), "the removal"), (told, "the report"), (claimed, "the claim")):
        sandbox = made.pop()
        node.engine.reset()
        kill(sandbox)
        job = node.plane.push("DESTROY_SANDBOX", sandbox)
        assert dead_or_done(node, job)
        bury(node)
        finished(node, job, f"destroy, killed after {what}")
    for sandbox in made:
        node.engine.reset()
        node.job("DESTROY_SANDBOX", sandbox)
    node.nothing_left()


def test_killed_while_it_changes_a_policy(node, kept):
    """The record is written before the rules: whatever is between them, the network is as it was or as it was asked to be, and then the latter."""
    shut = node.rules(kept)
    node.job("UPDATE_SANDBOX_NETWORK_SETTINGS", kept, {"networkAllowList": "192.0.2.0/24"})
    narrow = node.rules(kept)
    assert shut != narrow
    path = node.data / "sandboxes" / f"{kept}.json"
    for wish, wanted in (({"networkBlockAll": True}, shut), ({"networkAllowList": "192.0.2.0/24"}, narrow)):
        written = path.stat().st_ino
        job = node.plane.push("UPDATE_SANDBOX_NETWORK_SETTINGS", kept, wish)
        while path.stat().st_ino == written and not node.plane.told.get(job):
            pass
        node.kill()
        bury(node)
        assert node.rules(kept) in (shut, narrow)
        node.start()
        assert node.plane.result(job)["status"] == "COMPLETED"
        assert node.rules(kept) == wanted


@pytest.fixture
def with_long_polls(node: Node) -> Iterator[Node]:
    """Polls that outlast the runner's next start, however slow that is. A runner that ends in order waits for its last one, so these are killed."""
    ours = dict(node.extra)
    for settings in (ours | {"POLL_TIMEOUT": "60s"}, ours):
        node.kill()
        node.buried()
        node.plane.forget_polls()
        node.extra = settings
        node.start()
        if settings != ours:
            yield node


def test_a_job_that_the_dead_runners_poll_claims_is_found_soon(with_long_polls):
    """A control plane does not notice that a poll's client is gone, and claims the next job for nobody (runner contract 17.1)."""
    node = with_long_polls
    (orphan,) = eventually(lambda: node.plane.polls[:1], "the runner's first poll")
    node.kill()
    node.buried()
    node.start()
    assert node.plane.polls[0] is orphan
    job = node.plane.push("STOP_SANDBOX", str(uuid.uuid4()), {})
    # The listing that is due anyway comes half a minute after the one at the start.
    assert node.plane.result(job, 20)["status"] == "COMPLETED"


@pytest.fixture
def with_buildkit(node: Node) -> Iterator[Node]:
    """The runner beside the engine itself: BuildKit speaks over a connection that nobody can watch."""
    ours = dict(node.extra)
    node.stop()
    node.extra |= {"BUILD_ENGINE": "buildkit", "DOCKER_HOST": "unix:///var/run/docker.sock"}
    node.start()
    yield node
    node.plane.on_result = lambda _: False
    node.stop()
    node.extra = ours
    node.start()


def test_killed_in_the_middle_of_builds_by_buildkit(with_buildkit, registry):
    """While its steps run, when the image is there, and when its result is on its way; each next start builds it and tells it once."""
    node, account = with_buildkit, registry.account()
    tag = "daytona-pfkill"

    def log() -> str:
        return "".join(file.read_text() for file in (node.data / "builds").glob(f"{tag}*") if file.is_file())

    moments = {
        "in the first step": lambda: "first-begins" in log(),
        "in the second step": lambda: "second-begins" in log(),
        "when the image is there": lambda: docker("images", "-q", f"{tag}:daytona"),
        "when its result is on its way": None,
    }
    for what, moment in moments.items():
        docker("rmi", "-f", f"{tag}:daytona", check=False)
        # A word that is not in the command's own text, which the log shows as well.
        steps = [f"RUN echo {word}-''begins {uuid.uuid4()}; sleep 0.5\n" for word in ("first", "second")]
        payload = CASES["build"].payload(node, "", account) | {"dockerfile": f"FROM {node.image}\n{''.join(steps)}"}
        for file in (node.data / "builds").glob(f"{tag}*"):
            file.unlink()
        # Nothing is told before the kill: an answer that it cuts off would be a result told twice, and rightly.
        node.plane.on_result = (lambda _: node.kill() is None) if moment is None else (lambda _: True)
        job = node.plane.push("BUILD_SNAPSHOT", f"{tag}:daytona", payload)
        if moment is not None:
            eventually(moment, f"the build to be {what}", 60)
            node.kill()
        else:
            assert dead_or_done(node, job)
        bury(node)
        finished(node, job, f"a build, killed {what}")
        assert docker("images", "-q", f"{tag}:daytona"), what
    node.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.route])
def test_killed_at_each_step_of_a_request(pushed_to, registry, name):
    """The other generation: the control plane asks by HTTP, loses the connection, and asks again."""
    node, case, account = pushed_to, CASES[name], registry.account()
    sandbox = str(uuid.uuid4())
    assert node.ask("POST", "/sandboxes", node.create_payload(sandbox, networkBlockAll=True))[0] == 201
    assert node.run(sandbox, "echo precious > /work; cat /work") == "precious\n"
    path, payload = f"/sandboxes/{sandbox}/{case.route}", case.payload(node, sandbox, account)
    for step in range(MOST_STEPS):
        node.engine.reset()
        if case.running is not None and inspect(sandbox)["State"]["Running"] != case.running:
            assert node.ask("POST", f"/sandboxes/{sandbox}/{'start' if case.running else 'stop'}", {})[0] == 200
        dies_at(node, step)
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert node.ask("POST", path, payload)[0] == 200
            break
        bury(node)
        node.start()
        status, text = node.ask("POST", path, payload)
        assert status == 200, f"{name}, killed after step {step}: {status} {text}"
        intact(node, sandbox, f"{name}, killed after step {step}")
    assert step > 0, "it was never killed"
    for _ in range(2):
        dies_at(node, 0)
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert node.ask("POST", f"/sandboxes/{sandbox}/destroy")[0] == 200
            break
        bury(node)
        node.start()
    node.nothing_left()


@pytest.fixture
def pushed_to(node: Node) -> Iterator[Node]:
    """The runner in the generation that is asked by HTTP."""
    node.stop()
    node.extra["API_VERSION"] = "0"
    node.start()
    yield node
    node.engine.reset()
    node.stop()
    del node.extra["API_VERSION"]
    node.start()
