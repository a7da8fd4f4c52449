"""The asynchronous SDK: the same server, many calls at once."""

from __future__ import annotations

import asyncio

from daytona import AsyncDaytona, DaytonaConfig


def test_ten_sandboxes_at_once(stack):
    async def life(daytona: AsyncDaytona, number: int) -> str:
        sandbox = await daytona.create()
        try:
            await sandbox.fs.upload_file(f"number {number}".encode(), "number.txt")
            answers = await asyncio.gather(*(sandbox.process.exec(f"cat number.txt; echo -{i}") for i in range(5)))
            return "|".join(a.result.strip() for a in answers)
        finally:
            await daytona.delete(sandbox)

    async def main() -> list[str]:
        async with AsyncDaytona(DaytonaConfig(api_key=stack.key, api_url=stack.api_url)) as daytona:
            return await asyncio.gather(*(life(daytona, n) for n in range(10)))

    got = asyncio.run(asyncio.wait_for(main(), 150))
    assert got == ["|".join(f"number {n}-{i}" for i in range(5)) for n in range(10)]
