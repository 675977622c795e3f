"""Draws every line of a file over all nodes: `python batch.py captions.txt FOLDER NODE [NODE ...]`.

Tasks are durable, so this may be ended and started again: each line has an Idempotency-Key of its
own, and a line that was accepted before is the same task, drawn once.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

import httpx

AT_ONCE = 32


async def draw(http: httpx.AsyncClient, node: str, prompt: str, path: Path) -> None:
    """One image; waits as long as the node says when it is told to come again."""
    key = hashlib.sha256(f"{path.name} {prompt}".encode()).hexdigest()
    while True:
        body = {"prompt": prompt, "num_inference_steps": 12}
        answer = await http.post(
            f"{node}/v1/tasks", json=body, headers={"Idempotency-Key": f"batch-{key}"}
        )
        if answer.status_code not in (429, 503):
            break
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))
    task = answer.raise_for_status().json()
    while task["status"] in ("queued", "in_progress"):
        await asyncio.sleep(0.2)
        task = (await http.get(f"{node}/v1/tasks/{task['id']}")).raise_for_status().json()
    if task["status"] != "completed":
        print(f"{path.name}: {task['status']}: {task['error']['message']}", file=sys.stderr)
        return
    image = await http.get(f"{node}/v1/tasks/{task['id']}/image")
    path.write_bytes(image.raise_for_status().content)
    print(f"{path.name}: {prompt}, drawn by {task['executor']}")


async def main(captions: str, folder: str, *nodes: str) -> None:
    """Nodes take turns as the one that is asked; which one draws is theirs to decide."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    prompts = [line.strip() for line in Path(captions).read_text().splitlines() if line.strip()]
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(timeout=60.0) as http:

        async def one(number: int, prompt: str) -> None:
            async with gate:
                path = Path(folder) / f"{number:04d}.png"
                await draw(http, nodes[number % len(nodes)], prompt, path)

        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
