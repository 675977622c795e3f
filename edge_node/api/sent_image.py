"""Images that come as text in JSON: base64, as it is or as a data: URL."""

from __future__ import annotations

import base64
from typing import IO

from edge_node.api.uploads import UploadPlace, kept_on_disk
from edge_node.errors import InvalidRequest


def file_of_base64(text: str, *, place: UploadPlace, param: str) -> IO[bytes]:
    """The image in a file of `place`, which is taken for it.

    Raises:
        InvalidRequest: naming `param`; it is no base64, or another URL.
        AdmissionRefused: there is no place.
        DiskLow: there is no room for it on the disk.
    """
    if text.startswith(("http:", "https:")):
        raise InvalidRequest(
            f"`{param}` is the address of an image, which this node does not fetch: send the image "
            "itself, in base64.",
            param=param,
        )
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InvalidRequest(
                f"`{param}` must begin data:image/png;base64, if it is a URL at all; no other is "
                "fetched.",
                param=param,
            )
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as problem:
        raise InvalidRequest(
            f"`{param}` must be a PNG, JPEG, WebP or GIF image in base64: {problem}.", param=param
        ) from None
    place.take(len(content))
    file = place.file()
    with kept_on_disk():
        file.write(content)
    return file
