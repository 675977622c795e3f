"""What each field of requests, tasks and events means, in the words of /openapi.json.

Owns sentences alone; types and bounds are the schemas'.
"""

from __future__ import annotations

# Of what is asked for, on both surfaces.
REQUEST: dict[str, str] = {
    "prompt": "What shall be drawn.",
    "model": "A name of GET /v1/models; without one the cluster's default.",
    "n": "How many images; each is a task of its own, the i-th with seed + i.",
    "size": "WIDTHxHEIGHT in pixels, within the limits of the model; auto for its default.",
    "output_format": "Of the file.",
    "output_compression": "Quality of a JPEG or WebP, 0 to 100.",
    "partial_images": "Previews among the events, evenly spread over the steps.",
    "seed": "The same seed gives the same picture; without one it is drawn at random, and told.",
    "num_inference_steps": "Denoising steps: the work is in proportion to them.",
    "guidance_scale": "How closely the prompt is followed; at 1 or below it is not guided.",
    "negative_prompt": "What shall not be in it.",
    "deadline_s": "Seconds from now after which the image is of no use, and is given up.",
    "priority": "Larger is served first.",
    "init_image": "To start from: PNG, JPEG, WebP or GIF in base64, as it is or as a data: URL; or "
    "its address, where the operator allows that host.",
    "mask": "The same, with transparency: what is transparent is drawn anew, what is opaque stays.",
    "strength": "How much of the image to start from may change, above 0 to 1.",
    "callback_url": "Where the end of each task is told, if the operator allows that origin.",
    "response_format": "Whether images come in the answer or by their addresses.",
    "stream": "Answer with events: previews while it is drawn, then the image.",
    "quality": "OpenAI's words (low, medium, high, auto) for more or fewer steps.",
    "background": "OpenAI's; images are opaque.",
}

# Of a task, as GET /v1/tasks/{task_id} shows it. Times are unix seconds.
TASK: dict[str, str] = {
    "id": "Node that accepted it, and a ULID.",
    "object": "What this is.",
    "job_id": "Of the request for several images that it belongs to.",
    "status": "queued, in_progress, completed, failed or cancelled; the last three are final.",
    "progress": "Of its steps, in percent.",
    "created_at": "When it was accepted.",
    "started_at": "When it was first drawn.",
    "finished_at": "When it ended.",
    "node": "That accepted it and answers for it.",
    "owner": "Id of the API key that asked for it.",
    "executor": "The node that draws it, or drew it; null until one is chosen.",
    "attempt": "Number of its placements.",
    "moves": "From where to where its drawing went, why, and what each move was to save.",
    "queue_position": "Tasks to be drawn before it at its executor.",
    "eta_s": "Seconds to the image, as expected.",
    "durability": "Whether it is on disk; memory where only its client waits for it.",
    "model": "That draws it.",
    "prompt": "As asked for; null once it is no longer kept.",
    "negative_prompt": "As asked for.",
    "size": "WIDTHxHEIGHT in pixels.",
    "num_inference_steps": "Asked for, or the model's default.",
    "steps_done": "Of these.",
    "guidance_scale": "Asked for, or the model's default.",
    "strength": "How much of the image to start from may change.",
    "seed": "That gives this picture again.",
    "output_format": "Of the file.",
    "priority": "Larger is served first.",
    "deadline_at": "After which it is given up.",
    "policy": "That chose its executor.",
    "policy_reason": "Why that one decided and not another.",
    "queue_s": "Seconds that it waited at its executor.",
    "compute_s": "Seconds that it was drawn.",
    "delay_s": "Seconds from its acceptance to its end.",
    "emulated_device": "The kind of device that its executor plays; null on a real one.",
    "prompt_tokens": "Counted by each text encoder, and how many it reads.",
    "warnings": "What of the request has no effect, for example words beyond what is read.",
    "image_bytes": "Size of the file.",
    "image_url": "Where the image is.",
    "thumbnail_url": "The same, small.",
    "error": "Code and sentence of a task that ended without an image.",
    "init_image_sha256": "Of the image that it started from.",
    "masked": "Whether a part of that image stays.",
}

# Of an event of a task.
EVENT: dict[str, str] = {
    "sequence": "Grows with every event of the task; its id in the stream. Last-Event-ID goes on.",
    "type": "What happened.",
    "created_at": "When, in unix seconds.",
    "attempt": "Number of the placement that it is about.",
    "executor": "The node that draws it.",
    "step": "Steps that are done.",
    "steps": "Of so many.",
    "progress": "In percent.",
    "queue_position": "Tasks to be drawn before it.",
    "eta_s": "Seconds to the image, as expected.",
    "move": "Of `moved`: from, to, reason and expected gain in seconds.",
    "preview_b64_json": "Of `step`, where previews were asked for: a small PNG in base64.",
    "error": "Of `failed`: code and sentence.",
}

# Kinds of events.
EVENTS: dict[str, str] = {
    "queued": "It is accepted, or waits for another device.",
    "placed": "A device is chosen.",
    "moved": "Another device goes on with it.",
    "started": "It is being drawn; `step` is above 0 where a half-drawn one goes on.",
    "step": "A denoising step is done.",
    "finished": "The image is there. Final.",
    "failed": "It ended without an image. Final.",
    "cancelled": "Somebody cancelled it. Final.",
}
