"""From a request to an event, through the real broker and a real worker."""

import asyncio
from pathlib import Path

from tests.broker.events import returned
from tests.broker.harness import Gate
from tests.gateway.node import needs_node, run_tests
from tests.gateway.process import QUERY_SECRET, GatewayProcess, Listener, listening, path, token
from tidegate.settings import Settings

SESSION = "acme/user 7/münchen"


async def story(settings: Settings, directory: Path) -> None:
    bearer = token("acme/*")
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory) as gateway:
        await gate.start("w1", query_secret=QUERY_SECRET)
        async with gateway.client(bearer) as client, listening(Listener([gateway.url], SESSION, bearer)) as ears:
            wrote = await client.post(path(SESSION, "context"), json={"set": {"view/tab": "flights"}})
            assert wrote.status_code == 200
            role, _, offset = wrote.json()["position"].split(":")
            assert (role, int(offset)) == ("context", 0)

            position = wrote.json()["position"]
            read = await client.get(path(SESSION, f"context?at_least={position}"))
            assert read.json()["facets"] == {"view/tab": "flights"}
            unchanged = await client.get(path(SESSION, "context"), headers={"If-None-Match": read.headers["etag"]})
            assert unchanged.status_code == 304

            task = {"task_type": "search", "snapshot": {"view/tab": "flights"}}
            key = {"Idempotency-Key": "click-1"}
            first = await client.post(path(SESSION, "tasks"), json=task, headers=key)
            again = await client.post(path(SESSION, "tasks"), json=task, headers=key)
            other = await client.post(path(SESSION, "tasks"), json={**task, "slot": "x"}, headers=key)
            assert (first.status_code, again.status_code, other.status_code) == (202, 202, 422)
            task_id = first.json()["task_id"]
            assert again.json()["task_id"] == task_id
            assert first.headers["location"] == path(SESSION, f"tasks/{task_id}")
            assert other.headers["content-type"] == "application/problem+json"
            await ears.until(lambda: ears.of("running"), "the task runs")

            result = returned(SESSION, task_id)
            await gate.send(result)
            await ears.until(lambda: ears.of("delivered"), "the result is delivered")
            (delivered,) = ears.of("delivered")
            assert delivered.data["result"]["event_id"] == result.event_id
            assert delivered.data["parts"][0]["verdict"]["decision"] == "delivered"
            inbox = (await client.get(path(SESSION, "inbox"))).json()
            assert [each["task_id"] for each in inbox["unacknowledged"]] == [task_id]
            acknowledged = await client.post(
                path(SESSION, f"results/{delivered.data['event_id']}/acknowledgement"),
                json={"task_id": task_id, "outcome": "shown"},
            )
            assert acknowledged.status_code == 202
            await ears.until(lambda: [each for each in ears.of("ended") if each.data.get("acknowledged")], "shown")

            shown = (await client.get(path(SESSION, f"tasks/{task_id}"))).json()
            assert (shown["disposition"], shown["acknowledged"]) == ("delivered", "shown")

            second = (await client.post(path(SESSION, "tasks"), json=task)).json()["task_id"]
            await client.post(path(SESSION, "context"), json={"set": {"view/tab": "hotels"}})
            await gate.send(returned(SESSION, second))
            await ears.until(lambda: ears.of("withheld"), "the stale result is withheld")
            (withheld,) = ears.of("withheld")
            (difference,) = withheld.data["parts"][0]["verdict"]["differences"]
            assert (difference["expected"], difference["actual"]) == ("flights", "hotels")

            third = (await client.post(path(SESSION, "tasks"), json={"task_type": "search"})).json()["task_id"]
            done = await client.post(path(SESSION, f"tasks/{third}/cancel?wait=20"), json={"reason": "no more"})
            assert done.status_code == 200
            assert done.json()["status"]["disposition"] == "cancelled"
        assert await gateway.terminate() == 0
        await gate.drained(20)
        await gate.audit(tasks=3)


async def node_story(settings: Settings, directory: Path) -> None:
    async with Gate(settings, directory) as gate, GatewayProcess("gateway", settings, directory) as gateway:
        await gate.start("w1", query_secret=QUERY_SECRET)
        variables = {"TIDEGATE_URL": gateway.url, "TIDEGATE_TOKEN": token("acme/*"), "TIDEGATE_SESSION": "acme/node 1"}
        await asyncio.to_thread(run_tests, "gateway", passed=1, **variables)


@needs_node
def test_javascript_client(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(node_story(settings, tmp_path))


def test_story(settings: Settings, tmp_path: Path) -> None:
    asyncio.run(story(settings, tmp_path))
