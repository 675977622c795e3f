"""Images that a request names by their address: fetched from where the operator allows, or refused.

Owns which addresses count, and that a fetch is bounded in bytes and in time. No redirect is
followed, for it could lead to where nobody allowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from edge_node.api.uploads import UploadLimits, kept_on_disk
from edge_node.errors import InvalidRequest

if TYPE_CHECKING:
    import httpx

_SCHEMES = ("http://", "https://")


def is_address(text: str) -> bool:
    """Whether an image is named by its address, and not sent."""
    return text[:8].lower().startswith(_SCHEMES)


@dataclass(frozen=True, kw_only=True)
class ImageFetch:
    """Fetches images.

    Attributes:
        origins: from where, as https://images.example.com; none: from nowhere.
        limits: of an image that is sent, and of one that is fetched.
    """

    origins: Collection[str]
    limits: UploadLimits

    async def into(self, file: IO[bytes], address: str, *, param: str) -> None:
        """Writes the image at an address into `file`.

        Raises:
            InvalidRequest: naming `param`; nobody allows this address, or there is no image to be
                had within the bounds.
            DiskLow: there is no room for it on the disk.
        """
        import httpx  # not in nodes that fetch nothing

        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise InvalidRequest(f"`{param}` is no valid address.", param=param) from None
        if _origin(url) not in {_origin(httpx.URL(origin)) for origin in self.origins}:
            raise InvalidRequest(
                f"`{param}` is the address of an image, which this node does not fetch: send the "
                "image itself, in base64, or have its operator name the origin in "
                "image_url_origins.",
                param=param,
            )
        try:
            async with asyncio.timeout(self.limits.arrival_s_max):
                await self._fetch(url, file)
        except TimeoutError:
            problem = f"it did not arrive within {self.limits.arrival_s_max:g} s"
        except _NoImage as refused:
            problem = str(refused)
        except httpx.ConnectError:
            problem = "its server cannot be reached"
        except httpx.HTTPError as failed:
            problem = f"its server broke off ({type(failed).__name__})"
        else:
            return
        raise InvalidRequest(
            f"The image at the address in `{param}` could not be fetched: {problem}.", param=param
        )

    async def _fetch(self, url: httpx.URL, file: IO[bytes]) -> None:
        import httpx

        client = httpx.AsyncClient(timeout=None, trust_env=False, follow_redirects=False)
        # As it is: what is packed could be any number of times larger.
        headers = {"Accept-Encoding": "identity"}
        async with client, client.stream("GET", url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise _NoImage(f"its server answers with status {response.status_code}")
            received_bytes = 0
            async for chunk in response.aiter_raw():
                received_bytes += len(chunk)
                if received_bytes > self.limits.bytes_max:
                    raise _NoImage(f"it has more than {self.limits.bytes_max} bytes")
                with kept_on_disk():
                    await asyncio.to_thread(file.write, chunk)


class _NoImage(Exception):
    """Why there is none, as part of a sentence."""


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx leaves a scheme's own port out
