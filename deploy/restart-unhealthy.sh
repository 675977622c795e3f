#!/bin/sh
# Restarts this project's containers whose health check fails; Docker itself leaves them as they are.
set -eu
project="${1:-dedgeai}"
hung="$(docker ps --quiet --filter "label=com.docker.compose.project=$project" --filter health=unhealthy)"
for container in $hung; do
    name="$(docker inspect --format '{{.Name}}' "$container")"
    echo "restarting ${name#/}: its health check fails"
    # Without --time: each container's own stop_grace_period.
    docker restart "$container" >/dev/null
done
