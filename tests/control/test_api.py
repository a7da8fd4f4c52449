"""The API as a hostile or careless client meets it."""

from __future__ import annotations

import concurrent.futures
import json
import uuid

import pytest

from control_harness import POOL, Api, Process, fetch, wait_for


@pytest.mark.parametrize("header", [None, "Bearer nonsense", "Bearer", "Basic abc", "Bearer a b", "Bearer " + "x" * 4000])
def test_bad_keys_are_refused(control: Process, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = fetch("GET", control.info["url"] + "/sandbox", headers=headers)
    assert answer.status_code == 401
    body = answer.json()
    assert body["statusCode"] == 401 and body["error"] == "Unauthorized" and body["path"] == "/api/sandbox"
    assert answer.headers["x-daytona-api-version"] == "0.190.0"


def test_a_runner_is_no_user_and_a_user_no_runner(control: Process, api: Api) -> None:
    runner = Api(control.info["url"], control.info["runnerToken"])
    assert runner.post("/sandbox", json={}).status_code == 403
    assert api.get("/jobs/poll").status_code == 403


def test_foreign_things_are_404(api: Api) -> None:
    for path in (f"/sandbox/{uuid.uuid4()}", "/sandbox/..%2F..%2Fetc", "/snapshots/none", "/volumes/none", "/nowhere"):
        answer = api.get(path)
        assert answer.status_code == 404 and answer.json()["statusCode"] == 404, path
    assert api("DELETE", f"/sandbox/{uuid.uuid4()}").status_code == 404


def test_empty_bodies_of_any_type_are_taken(api: Api) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        made = api.post("/sandbox", content=b"", headers={"Content-Type": kind})
        assert made.status_code == 200 and made.json()["state"] == "started"
        path = f"/sandbox/{made.json()['id']}"
        assert api.post(f"{path}/last-activity", content=b"", headers={"Content-Type": kind}).status_code == 201
        assert api("DELETE", path, content=b"", headers={"Content-Type": kind}).status_code == 200


def test_unknown_fields_and_nulls_are_taken(api: Api) -> None:
    made = api.post("/sandbox", json={"name": None, "env": None, "labels": None, "volumes": None, "someday": {"a": 1}})
    assert made.status_code == 200, made.text
    sandbox = made.json()
    for field in ("cpu", "gpu", "memory", "disk"):
        assert type(sandbox[field]) is int
    assert sandbox["kvm"] is False and sandbox["networkBlockAll"] is False and sandbox["volumes"] == []
    api("DELETE", f"/sandbox/{sandbox['id']}")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"snapshot": "default", "buildInfo": {"dockerfileContent": "FROM a:1"}}, 400),
        ({"snapshot": "default", "cpu": 2}, 400),
        ({"snapshot": "unknown"}, 400),
        ({"target": "mars"}, 404),
        ({"autoStopInterval": -1}, 400),
        ({"volumes": [{"volumeId": "none", "mountPath": "/a"}]}, 400),
        ({"networkAllowList": "10.0.0.0"}, 400),
        ({"buildInfo": {"dockerfileContent": ""}}, 400),
        ({"secrets": [{"A": "b"}]}, 501),
        ({"kvm": True}, 422),
        ({"name": "a/b"}, 400),
        ({"cpu": "two", "buildInfo": {"dockerfileContent": "FROM a:1"}}, 400),
        ([1, 2], 400),
    ],
)
def test_bad_creates_are_refused(api: Api, body: object, status: int) -> None:
    answer = api.post("/sandbox", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]


def test_a_name_is_taken_once(api: Api) -> None:
    first = api.post("/sandbox", json={"name": "unique"})
    assert first.status_code == 200
    assert api.post("/sandbox", json={"name": "unique"}).status_code == 409
    assert api.get("/sandbox/unique").json()["id"] == first.json()["id"]
    assert api("DELETE", "/sandbox/unique").status_code == 200
    second = api.post("/sandbox", json={"name": "unique"})
    assert second.status_code == 200, "a name is free as soon as delete was asked"
    api("DELETE", "/sandbox/unique")


def test_a_snapshot_that_was_deleted_stays_so(api: Api) -> None:
    """Whatever else happens to it meanwhile: its image comes, and others deactivate and activate it."""

    def ask(call: tuple[str, str]) -> int:
        return api(*call).status_code

    for n in range(20):
        name = f"doomed-{n}"
        assert api.post("/snapshots", json={"name": name, "imageName": f"doomed:{n}"}).status_code == 200
        others = [("POST", f"/snapshots/{name}/{verb}") for verb in ("deactivate", "activate")]
        asked = [others[0], ("DELETE", f"/snapshots/{name}"), *others]
        ended = list(POOL.map(ask, asked))
        assert ended[1] == 200, ended
        found = api.get("/snapshots", params={"name": name, "limit": 200}).json()["items"]
        assert found == [], f"round {n}: {found}"


def test_one_of_many_creates_of_a_snapshot_wins(api: Api) -> None:
    def make(n: int) -> int:
        return api.post("/snapshots", json={"name": "wanted", "imageName": f"wanted:{n}"}).status_code

    assert sorted(POOL.map(make, range(8))) == [200] + [409] * 7
    assert api("DELETE", "/snapshots/wanted").status_code == 200


def test_ten_thousand_labels(api: Api) -> None:
    labels = {f"label-{n}": "x" * 20 for n in range(10_000)}
    made = api.post("/sandbox", json={"labels": labels})
    assert made.status_code == 200 and len(made.json()["labels"]) == 10_000
    path = f"/sandbox/{made.json()['id']}"
    wanted = json.dumps({"label-9999": "x" * 20})
    assert [s["id"] for s in api.get("/sandbox", params={"labels": wanted}).json()["items"]] == [made.json()["id"]]
    api("DELETE", path)


def test_lists_page_through_everything(api: Api) -> None:
    made = {api.post("/sandbox", json={"name": f"page-{n}", "labels": {"paged": "yes"}}).json()["id"] for n in range(7)}
    for sort in ("name", "createdAt", "lastActivityAt", "cpu"):
        for order in ("asc", "desc"):
            seen: list[str] = []
            cursor = None
            while True:
                query = {"labels": '{"paged":"yes"}', "limit": 3, "sort": sort, "order": order}
                page = api.get("/sandbox", params={**query, **({"cursor": cursor} if cursor else {})}).json()
                seen += [s["id"] for s in page["items"]]
                cursor = page["nextCursor"]
                if cursor is None:
                    break
            assert len(seen) == 7 and set(seen) == made, (sort, order)
    old = api.get("/sandbox/paginated", params={"labels": '{"paged":"yes"}', "limit": 5}).json()
    assert (old["total"], old["page"], old["totalPages"], len(old["items"])) == (7, 1, 2, 5)
    assert api.get("/sandbox", params={"cursor": "nonsense"}).status_code == 400
    assert api.get("/sandbox", params={"limit": 0}).status_code == 400
    assert api.get("/sandbox", params=[("states", "started"), ("states", "stopped"), ("name", "PAGE-")]).json()["items"]
    for sandbox in made:
        api("DELETE", f"/sandbox/{sandbox}")


def test_fifty_clients_at_once(control: Process) -> None:
    def life(n: int) -> list[int]:
        client = Api(control.info["url"], control.info["apiKey"])
        made = client.post("/sandbox", json={"labels": {"n": str(n)}})
        path = f"/sandbox/{made.json().get('id')}"
        return [
            made.status_code,
            client.post(f"{path}/stop").status_code,
            client.post(f"{path}/start").status_code,
            client.get(path).status_code,
            client("DELETE", path).status_code,
        ]

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        results = list(pool.map(life, range(200)))
    assert results == [[200] * 5] * 200


def test_doubled_slashes_and_other_methods(control: Process, api: Api) -> None:
    root = control.info["url"].removesuffix("/api")
    headers = {"Authorization": f"Bearer {control.info['apiKey']}"}
    assert fetch("GET", f"{root}/api//sandbox", headers=headers).status_code == 200
    assert fetch("GET", f"{root}/api/health").json() == {"status": "ok"}
    assert api("PATCH", "/sandbox").status_code == 405


def test_network_settings(control: Process, api: Api) -> None:
    sandbox = api.post("/sandbox", json={}).json()["id"]
    path = f"/sandbox/{sandbox}/network-settings"
    assert api.post(path).status_code == 400
    assert api.post(path, json={"networkAllowList": None}).status_code == 400
    both = api.post(path, json={"networkBlockAll": True, "networkAllowList": "10.0.0.0/8"}).json()
    assert (both["networkBlockAll"], both["networkAllowList"]) == (False, "10.0.0.0/8")
    cleared = api.post(path, json={"networkAllowList": ""}).json()
    assert "networkAllowList" not in cleared
    api("DELETE", f"/sandbox/{sandbox}")


def test_keys_can_be_made_and_ended(control: Process, api: Api) -> None:
    made = api.post("/api-keys", json={"name": "reader", "permissions": ["read:volumes"]})
    assert made.status_code == 201 and made.json()["value"].startswith("dtn_")
    reader = Api(control.info["url"], made.json()["value"])
    assert reader.get("/volumes").status_code == 200
    assert reader.post("/sandbox", json={}).status_code == 403
    assert reader.post("/api-keys", json={"name": "more", "permissions": ["write:sandboxes"]}).status_code == 403
    assert reader.get("/api-keys/current").json()["name"] == "reader"
    assert "*" in api.get("/api-keys/reader").json()["value"]
    assert api("DELETE", "/api-keys/reader").status_code == 204
    assert reader.get("/volumes").status_code == 401


def test_what_is_not_there_says_so(api: Api) -> None:
    sandbox = api.post("/sandbox", json={}).json()["id"]
    assert api.post(f"/sandbox/{sandbox}/fork").status_code == 422
    assert api.post(f"/sandbox/{sandbox}/pause").status_code == 422
    assert api("PUT", f"/sandbox/{sandbox}/secrets", json={"secrets": []}).status_code == 501
    assert api.get("/secret").status_code == 501
    assert api("DELETE", f"/sandbox/{sandbox}").status_code == 200
    wait_for("the sandbox to be gone", lambda: api.state(sandbox) is None)


def test_account_pages(api: Api) -> None:
    config = api.get("/config").json()
    assert config["oidc"]["provider"] == "" and "{{PORT}}" in config["proxyTemplateUrl"]
    assert api.get("/regions").json()[0]["id"] == "us"
    organization = api.get("/organizations").json()[0]["id"]
    usage = api.get(f"/organizations/{organization}/usage").json()
    assert usage["regionUsage"][0]["regionId"] == "us"
    assert api.get("/users/me").json()["emailVerified"] is False
