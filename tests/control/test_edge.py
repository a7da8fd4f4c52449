"""The way into a sandbox: who may pass, and what arrives."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from control_harness import Api, Process, fetch


@pytest.fixture
def sandbox(api: Api):
    made = api.post("/sandbox", json={}).json()["id"]
    yield made
    api("DELETE", f"/sandbox/{made}")


class Edge:
    """Requests to the listener under any host name."""

    def __init__(self, control: Process) -> None:
        self.port = control.info["port"]
        self.key = control.info["apiKey"]
        self.root = f"http://127.0.0.1:{self.port}"

    def get(self, path: str, host: str | None = None, **headers: str) -> httpx.Response:
        named = {"Host": host} if host else {}
        return fetch("GET", self.root + path, headers={**named, **{k.replace("_", "-"): v for k, v in headers.items()}})


@pytest.fixture
def edge(control: Process) -> Edge:
    return Edge(control)


def test_the_toolbox_needs_a_key_or_the_token(edge: Edge, api: Api, sandbox: str) -> None:
    path = f"/toolbox/{sandbox}/files/a%2Fb?x=%20"
    assert edge.get(path).status_code == 401
    assert edge.get(path, Authorization="Bearer nonsense").status_code == 401
    assert edge.get("/toolbox/no-such/files").status_code == 401
    assert edge.get("/toolbox/no-such/files", Authorization=f"Bearer {edge.key}").status_code == 404
    seen = edge.get(path, Authorization=f"Bearer {edge.key}").json()
    assert seen["path"].endswith(f"/sandboxes/{sandbox}/toolbox/files/a%2Fb") and seen["query"] == "x=%20"
    assert "authorization" not in seen["headers"], "the user's key does not reach the sandbox"
    token = api.get(f"/sandbox/{sandbox}/ports/1/preview-url").json()["token"]
    seen = edge.get(path + f"&DAYTONA_SANDBOX_AUTH_KEY={token}", Authorization="Bearer the-apps-own").json()
    assert seen["query"] == "x=%20" and seen["headers"]["authorization"] == "Bearer the-apps-own"
    assert edge.get(path, X_Daytona_Preview_Token=token).status_code == 200
    api.post(f"/sandbox/{sandbox}/stop")
    api.post(f"/sandbox/{sandbox}/start")
    assert edge.get(path, X_Daytona_Preview_Token=token).status_code == 401, "a start ends old tokens at once"


def test_the_older_toolbox_path(edge: Edge, sandbox: str) -> None:
    path = f"/api/toolbox/{sandbox}/toolbox/process/list?a=1"
    seen = edge.get(path, Authorization=f"Bearer {edge.key}").json()
    assert seen["path"].endswith("/toolbox/process/list") and seen["query"] == "a=1"


def test_previews_by_host(edge: Edge, api: Api, sandbox: str) -> None:
    host = f"3000-{sandbox}.proxy.localhost:{edge.port}"
    assert edge.get("/page", host).status_code == 401
    token = api.get(f"/sandbox/{sandbox}/ports/3000/preview-url").json()["token"]
    seen = edge.get("/page?q=1", host, X_Daytona_Preview_Token=token)
    assert seen.json()["path"].endswith("/toolbox/proxy/3000/page")
    by_query = edge.get(f"/page?q=1&DAYTONA_SANDBOX_AUTH_KEY={token}", host)
    assert by_query.json()["query"] == "q=1"
    cookie = by_query.headers["set-cookie"].split(";")[0]
    assert edge.get("/page", host, Cookie=cookie).status_code == 200
    assert edge.get("/page", f"3001-{sandbox}.proxy.localhost", Cookie=cookie).status_code == 401
    assert edge.get("/page", host, Authorization=f"Bearer {edge.key}").status_code == 200
    assert api.post(f"/sandbox/{sandbox}/public/true").json()["public"] is True
    assert edge.get("/page", host).status_code == 200
    for reserved in (2280, 22222, 33333):
        assert edge.get("/", f"{reserved}-{sandbox}.proxy.localhost").status_code == 401
    assert edge.get("/page", f"3000-{sandbox}.proxy.localhost.evil.test").status_code == 404


def test_signed_links(edge: Edge, api: Api, sandbox: str) -> None:
    signed = api.get(f"/sandbox/{sandbox}/ports/3000/signed-preview-url", params={"expiresInSeconds": 60}).json()
    host = signed["url"].removeprefix("http://")
    assert edge.get("/", host).status_code == 200
    assert edge.get("/", host.replace("3000-", "3001-")).status_code == 401
    path = f"/sandbox/{sandbox}/ports/3000/signed-preview-url/{signed['token']}/expire"
    assert api.post(path).status_code == 201
    assert edge.get("/", host).status_code == 401
    assert api.get(f"/sandbox/{sandbox}/ports/0/preview-url").status_code == 400


def test_no_key_of_ours_reaches_a_sandbox_however_the_request_was_let_in(edge: Edge, api: Api, sandbox: str, control: Process) -> None:
    token = api.get(f"/sandbox/{sandbox}/ports/3000/preview-url").json()["token"]
    signed = api.get(f"/sandbox/{sandbox}/ports/3000/signed-preview-url", params={"expiresInSeconds": 600}).json()
    host = f"3000-{sandbox}.proxy.localhost"
    ways = [
        ("/", signed["url"].removeprefix("http://"), {}),
        ("/", host, {"X_Daytona_Preview_Token": token}),
        (f"/?DAYTONA_SANDBOX_AUTH_KEY={token}", host, {}),
        (f"/toolbox/{sandbox}/files", None, {"X_Daytona_Preview_Token": token}),
    ]

    def arrives(value: str, path: str, host: str | None, headers: dict[str, str]) -> str | None:
        answer = edge.get(path, host, Authorization=value, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["headers"].get("authorization")

    public = ("/", host, {})
    for way in [*ways, public]:
        if way is public:
            assert api.post(f"/sandbox/{sandbox}/public/true").json()["public"] is True
        assert arrives(f"Bearer {edge.key}", *way) is None, way
        assert arrives("Bearer the-apps-own", *way) == "Bearer the-apps-own", way
    for ours in (f"Bearer {control.info['runnerToken']}", f"bearer {edge.key}", f"Token {edge.key}", edge.key):
        assert arrives(ours, *public) is None
    for foreign in ("Basic dTpw", "Bearer dtn_" + "0" * 64):
        assert arrives(foreign, *public) == foreign
    twice = httpx.Headers([("Host", host), ("Authorization", "Bearer the-apps-own"), ("Authorization", f"Bearer {edge.key}")])
    answer = fetch("GET", edge.root, headers=twice)
    assert answer.status_code == 200 and edge.key not in answer.text


def test_websockets_pass(edge: Edge, sandbox: str) -> None:
    url = f"ws://127.0.0.1:{edge.port}/toolbox/{sandbox}/process/pty/x/connect"
    with connect(url, additional_headers={"Authorization": f"Bearer {edge.key}"}) as socket:
        socket.send("hello")
        assert socket.recv(timeout=60) == "hello"


def test_a_stopped_sandbox_says_so(edge: Edge, api: Api, sandbox: str) -> None:
    api.post(f"/sandbox/{sandbox}/stop")
    answer = edge.get(f"/toolbox/{sandbox}/files", Authorization=f"Bearer {edge.key}")
    assert answer.status_code == 400 and "start it first" in answer.json()["message"]


def test_browsers_may_call(edge: Edge) -> None:
    asked = {"Origin": "http://app.test", "Access-Control-Request-Method": "POST"}
    answer = fetch("OPTIONS", edge.root + "/api/sandbox", headers=asked)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "http://app.test"
    assert "access-control-allow-credentials" not in answer.headers


def test_pages_of_other_origins_may_call_a_preview(edge: Edge, api: Api, sandbox: str) -> None:
    host = f"3000-{sandbox}.proxy.localhost:{edge.port}"
    asked = {"Host": host, "Origin": "http://app.test", "Access-Control-Request-Method": "PUT"}
    before = fetch("OPTIONS", edge.root + "/page", headers=asked)
    assert before.status_code == 204 and before.headers["access-control-allow-origin"] == "http://app.test"
    token = api.get(f"/sandbox/{sandbox}/ports/3000/preview-url").json()["token"]
    answer = edge.get("/page", host, Origin="http://app.test", X_Daytona_Preview_Token=token)
    assert answer.headers["access-control-allow-origin"] == "http://app.test"
    own = edge.get("/page", host, Origin="http://app.test", X_Daytona_Preview_Token=token, X_Daytona_Disable_CORS="true")
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


def test_the_warning_page(tmp_path: Path) -> None:
    process = Process(tmp_path / "log", PINFOLD_DATA_DIR=str(tmp_path / "data"), PINFOLD_PREVIEW_WARNING="true")
    try:
        api, edge = Api(process.info["url"], process.info["apiKey"]), Edge(process)
        sandbox = api.post("/sandbox", json={"public": True}).json()["id"]
        assert api.get(f"/preview/{sandbox}/preview-warning").json() is True
        host = f"3000-{sandbox}.proxy.localhost:{edge.port}"
        browser = {"User_Agent": "Mozilla/5.0", "Accept": "text/html"}
        page = edge.get("/a?b=c", host, **browser)
        assert page.headers["content-type"].startswith("text/html") and "This is a preview" in page.text
        link = page.text.split('href="')[1].split('"')[0]
        consent = edge.get(link, host, **browser)
        assert consent.status_code == 303 and consent.headers["location"] == "/a?b=c"
        cookie = consent.headers["set-cookie"].split(";")[0]
        assert edge.get("/a?b=c", host, Cookie=cookie, **browser).json()["query"] == "b=c"
        assert edge.get("/a", host, X_Daytona_Skip_Preview_Warning="true", **browser).status_code == 200
        assert edge.get("/a", host).json()["path"].endswith("/proxy/3000/a"), "programs are not asked"
    finally:
        process.stop()
