"""Between what nodes tell each other of learning and the messages of node.proto.

Owns the mapping alone, of a node's part in it, of weights and their files, and of experience.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator

from dedgeai.v1 import node_pb2

from edge_node.domain import Learning, NodeId
from edge_node.errors import InvalidRequest
from edge_node.experience_page import ExperiencePage
from edge_node.learned_weights import LearnedWeights
from edge_node.peering import message_rules

WEIGHTS_CHUNK_BYTES = 256 * 1024


def learning_to_proto(learning: Learning) -> node_pb2.Learning:
    """A node's part in learning, as a message."""
    return node_pb2.Learning(
        policy=learning.policy,
        willing=learning.willing,
        learner=learning.learner or "",
        weights=None if learning.weights is None else weights_to_proto(learning.weights),
    )


def learning_from_proto(message: node_pb2.Learning) -> Learning:
    """A node's part in learning, of a message."""
    return Learning(
        policy=message.policy,
        willing=message.willing,
        learner=NodeId(message.learner) if message.learner else None,
        weights=weights_from_proto(message.weights) if message.HasField("weights") else None,
    )


def weights_to_proto(weights: LearnedWeights) -> node_pb2.LearnedWeights:
    """What is told of weights, as a message."""
    return node_pb2.LearnedWeights(
        policy=weights.policy,
        version=weights.version,
        generation=weights.generation,
        sha256=weights.sha256,
        size_bytes=weights.size_bytes,
    )


def weights_from_proto(message: node_pb2.LearnedWeights) -> LearnedWeights:
    """What is told of weights, of a message."""
    return LearnedWeights(
        policy=message.policy,
        version=message.version,
        generation=message.generation,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
    )


def page_to_proto(page: ExperiencePage) -> node_pb2.ReadExperienceResponse:
    """Some entries of a pool as a message."""
    return node_pb2.ReadExperienceResponse(
        last=page.last,
        entries=[
            node_pb2.ExperienceEntry(fields={key.decode(): value for key, value in entry.items()})
            for entry in page.entries
        ],
        read_at=page.read_unix_s,
    )


def page_from_proto(message: node_pb2.ReadExperienceResponse) -> ExperiencePage:
    """Some entries of a pool, of a message; raises MalformedMessage."""
    message_rules.check(message)
    return ExperiencePage(
        last=message.last,
        entries=tuple(
            {key.encode(): value for key, value in entry.fields.items()}
            for entry in message.entries
        ),
        read_unix_s=message.read_at,
    )


def chunks(content: bytes) -> Iterator[bytes]:
    """A file in pieces that fit into messages."""
    for start in range(0, len(content), WEIGHTS_CHUNK_BYTES):
        yield content[start : start + WEIGHTS_CHUNK_BYTES]


async def gathered(
    messages: AsyncIterable[node_pb2.FetchWeightsResponse | node_pb2.OfferWeightsRequest],
    *,
    bytes_max: int,
) -> tuple[LearnedWeights, bytes]:
    """What is told of weights, and their file.

    Raises:
        MalformedMessage: a message means nothing.
        InvalidRequest: there are more bytes than that, or nothing is told of them.
    """
    about: LearnedWeights | None = None
    parts: list[bytes] = []
    size = 0
    async for message in messages:
        message_rules.check(message)
        if message.HasField("weights"):
            about = weights_from_proto(message.weights)
        size += len(message.chunk)
        if size > bytes_max or (about is not None and about.size_bytes > bytes_max):
            raise InvalidRequest(
                f"Learned weights of more than {bytes_max} bytes are not taken; raise "
                "learned_weights_bytes_max where they are expected."
            )
        parts.append(message.chunk)
    if about is None:
        raise InvalidRequest("Nothing was told of the weights that came.")
    return about, b"".join(parts)
