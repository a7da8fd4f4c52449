"""A control plane that only tests know: it hands out jobs, remembers what it was told, and can be gone."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ENDED = ("COMPLETED", "FAILED")


class Plane:
    """The API that a runner of the polling generation calls (runner contract 2.2), on a port of its own."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.changed = threading.Condition()
        #: Every job by its id, as the API would show it.
        self.jobs: dict[str, dict] = {}
        #: How often the result of each job was told.
        self.told: dict[str, int] = {}
        #: What `GET /sandbox/for-runner` answers.
        self.sandboxes: list[dict] = []
        self.states: list[tuple[str, dict]] = []
        #: Called with the job's id when its result has arrived and is not acknowledged yet. True: the connection is cut instead.
        self.on_result: Callable[[str], bool] = lambda _: False
        #: Called with the claimed jobs before they are sent. True: the connection is cut instead.
        self.on_claim: Callable[[list[dict]], bool] = lambda _: False
        #: Open polls, oldest first, which is the order they are served in. One of a runner that was killed stays, and claims for nobody, as
        #: the original's do (runner contract 17.1).
        self.polls: list[object] = []
        #: Gone: connections are taken and cut, as a proxy before a dead API does.
        self.gone = False
        self.server = _Server((host, 0), type("Handler", (_Handler,), {"plane": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://{host}:{self.server.server_address[1]}/api"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def leave(self, gone: bool = True) -> None:
        """Goes away, or comes back."""
        with self.changed:
            self.gone = gone
            self.changed.notify_all()

    def push(self, kind: str, resource: str, payload: dict | None = None) -> str:
        """Makes a job. Returns its id."""
        job = {"id": str(uuid.uuid4()), "type": kind, "status": "PENDING", "resourceType": "SANDBOX", "resourceId": resource}
        if payload is not None:
            job["payload"] = json.dumps(payload)
        with self.changed:
            self.jobs[job["id"]] = job
            self.changed.notify_all()
        return job["id"]

    def result(self, job: str, timeout: float = 60) -> dict:
        """Waits until a job has ended, and returns it."""
        with self.changed:
            ended = self.changed.wait_for(lambda: self.jobs[job]["status"] in ENDED, timeout)
            assert ended, f"{self.jobs[job]['type']} had no result after {timeout:.0f} s"
            return self.jobs[job]

    def forget_polls(self) -> None:
        """Ends the polls that are open."""
        with self.changed:
            self.polls.clear()
            self.changed.notify_all()

    def claim(self, limit: int, timeout: float) -> list[dict]:
        """One poll."""
        poll = object()

        def pending() -> list[dict]:
            return [j for j in self.jobs.values() if j["status"] == "PENDING"] if self.polls[:1] == [poll] else []

        with self.changed:
            self.polls.append(poll)
            # It ends early when the API is about to be gone, or it would outlive it.
            self.changed.wait_for(lambda: pending() or self.gone or poll not in self.polls, timeout)
            taken = pending()[:limit]
            for job in taken:
                job["status"] = "IN_PROGRESS"
            if poll in self.polls:
                self.polls.remove(poll)
            self.changed.notify_all()
            return [dict(job) for job in taken]

    def end(self, job: str, update: dict) -> int:
        with self.changed:
            if job not in self.jobs:
                return 404
            self.told[job] = self.told.get(job, 0) + 1
            if self.jobs[job]["status"] in ENDED and update["status"] != self.jobs[job]["status"]:
                return 409
            self.jobs[job] |= update
            self.changed.notify_all()
            return 201


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # With the library's five, connections that are made at once wait for SYNs that are sent again, for seconds.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    plane: Plane
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def answer(self, status: int, body: object = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def cut(self) -> None:
        self.close_connection = True

    def do_GET(self) -> None:
        if self.plane.gone:
            return self.cut()
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        match url.path.removeprefix("/api"):
            case "/jobs/poll":
                jobs = self.plane.claim(int(query["limit"]), float(query["timeout"]))
                if self.plane.gone or (jobs and self.plane.on_claim(jobs)):
                    return self.cut()
                return self.answer(200, {"jobs": jobs})
            case "/jobs":
                with self.plane.changed:
                    items = [dict(j) for j in self.plane.jobs.values() if j["status"] == query["status"]]
                return self.answer(200, {"items": items, "total": len(items), "page": 1, "totalPages": 1})
            case "/sandbox/for-runner":
                return self.answer(200, self.plane.sandboxes)
        return self.answer(404, {"message": "no such route"})

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")

    def do_POST(self) -> None:
        body = self.body()
        if self.plane.gone:
            return self.cut()
        parts = urlsplit(self.path).path.removeprefix("/api").strip("/").split("/")
        match parts:
            case ["runners", "healthcheck"]:
                return self.answer(201)
            case ["jobs", job, "status"]:
                if self.plane.on_result(job):
                    return self.cut()
                return self.answer(self.plane.end(job, body), {})
        return self.answer(404, {"message": "no such route"})

    def do_PUT(self) -> None:
        body = self.body()
        if self.plane.gone:
            return self.cut()
        self.plane.states.append((self.path.split("/")[-2], body))
        return self.answer(200)
