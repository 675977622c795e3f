"""An image by the OpenAI SDK: `python openai_sdk.py http://127.0.0.1:8080`, writes sdk.png."""

import base64
import sys
from pathlib import Path

from openai import OpenAI


def main(node: str) -> None:
    """Asks any node of a cluster, and says which one drew."""
    client = OpenAI(base_url=f"{node}/v1", api_key="none")
    answer = client.images.with_raw_response.generate(
        prompt="a large red circle on the left on a white background",
        response_format="b64_json",
        extra_body={"seed": 1, "num_inference_steps": 12},
    )
    image = (answer.parse().data or [])[0]
    Path("sdk.png").write_bytes(base64.b64decode(image.b64_json or ""))
    print("drawn by", answer.headers["x-dedgeai-executor"])


if __name__ == "__main__":
    main(sys.argv[1])
