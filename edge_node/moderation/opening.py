"""The moderator that a node's settings ask for, from its first question to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from edge_node.config import NodeConfig
from edge_node.moderation.judges import CommandJudge, UrlJudge
from edge_node.moderation.moderator import ModerationSettings, Moderator


@asynccontextmanager
async def open_moderator(
    config: NodeConfig, *, on_judged: Callable[[str, str], None]
) -> AsyncIterator[Moderator | None]:
    """Who is asked; None where nobody is."""
    settings = ModerationSettings.of(config)
    if config.moderation_command:
        judge = CommandJudge(config.moderation_command)
        yield Moderator(judge.ask, settings, on_judged=on_judged)
    elif config.moderation_url:
        site = UrlJudge(config.moderation_url)
        try:
            yield Moderator(site.ask, settings, on_judged=on_judged)
        finally:
            await site.close()
    else:
        yield None
