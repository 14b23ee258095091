#!/usr/bin/env bash
# Query a server with curl: client.sh PICTURE [ADDRESS] [MODEL]. Start one first: anywidth serve RUN
set -euo pipefail
picture="$1" address="${2:-http://127.0.0.1:8000}" model="${3:-digits}"

ask() {
    # TOKEN is for servers started with --token-file.
    curl --silent --show-error --fail-with-body ${TOKEN:+--header "Authorization: Bearer $TOKEN"} "$@"
    echo
}

echo "is it ready, and what does it take?"
ask "$address/v2/health/ready"
ask "$address/v2/models/$model"

echo "a picture, at the width that the server chooses, and at most a million MACs"
ask --data-binary "@$picture" "$address/predict"
ask --data-binary "@$picture" "$address/predict?budget=macs%3C%3D1e6"

echo "how it is doing"
ask "$address/metrics" | grep -E '^anywidth_(width|drift|queue_requests|request_seconds_count)'
