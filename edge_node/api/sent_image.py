"""Images that come as text in JSON: base64, as it is or as a data: URL, or an address."""

from __future__ import annotations

import base64
from typing import IO

from edge_node.api.image_fetch import is_address
from edge_node.api.uploads import SentImage, UploadPlace, kept_on_disk
from edge_node.errors import InvalidRequest

_LINE_BREAKS = "\n\r "


def image_of_text(text: str, *, place: UploadPlace, param: str) -> SentImage:
    """The image in a file of `place`, which is taken for it; empty where it is to be fetched.

    Raises:
        InvalidRequest: naming `param`; it is no base64, or a URL of another kind.
        AdmissionRefused: there is no place.
        DiskLow: there is no room for it on the disk.
    """
    if is_address(text):
        place.take_largest()
        return SentImage(file=place.file(), param=param, address=text)
    return SentImage(file=_file_of_base64(text, place, param), param=param)


def _file_of_base64(text: str, place: UploadPlace, param: str) -> IO[bytes]:
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InvalidRequest(
                f"`{param}` must begin data:image/png;base64, if it is a data: URL.", param=param
            )
    if any(map(text.__contains__, _LINE_BREAKS)):  # as most tools write it
        text = "".join(text.split())
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
