#!/bin/sh
# An accepted task survives its node: submit it, watch it, fetch it. Writes task.png.
#   sh task.sh http://127.0.0.1:8080
set -eu
node=$1

# 202 once it is on disk. The key makes it safe to send again when the answer is lost.
location=$(curl -sS --fail --output /dev/null --dump-header - "$node/v1/tasks" \
    -H 'Content-Type: application/json' -H "Idempotency-Key: example-$$" \
    -d '{"prompt": "a small blue star at the top", "num_inference_steps": 12}' |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')

# queued, placed, started, step k of z, moved, finished; ends with the task.
curl -sS --fail --no-buffer "$node$location/events" | grep '^event:'

curl -sS --fail --output task.png "$node$location/image"
