"""Draws every line of a file over all nodes: `python batch.py captions.txt FOLDER NODE [NODE ...]`.

Tasks are durable, so this may be ended and started again: each line has an Idempotency-Key of its
own, and a line that was accepted before is the same task, drawn once.
"""

import asyncio
import hashlib
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from dedgeai.client import AsyncClient, DEdgeAIError

AT_ONCE = 32


async def draw(client: AsyncClient, prompt: str, path: Path) -> None:
    """One image; the client waits as long as the node says when it is told to come again."""
    key = hashlib.sha256(f"{path.name} {prompt}".encode()).hexdigest()
    try:
        image = await client.generate(
            prompt, num_inference_steps=12, idempotency_key=f"batch-{key}"
        )
    except DEdgeAIError as error:
        print(f"{path.name}: {error.message}", file=sys.stderr)
        return
    path.write_bytes(image.content)
    print(f"{path.name}: {prompt}, drawn by {image.task.executor}")


async def main(captions: str, folder: str, *nodes: str) -> None:
    """Nodes take turns as the one that is asked; which one draws is theirs to decide."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    prompts = [line.strip() for line in Path(captions).read_text().splitlines() if line.strip()]
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(node)) for node in nodes]

        async def one(number: int, prompt: str) -> None:
            async with gate:
                path = Path(folder) / f"{number:04d}.png"
                await draw(clients[number % len(clients)], prompt, path)

        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
