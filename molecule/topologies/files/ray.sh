#!/bin/sh
# Ray, but for its first start after a boot: that ends, as Ray's first start on a loaded node does.
if mkdir "$RUNTIME_DIRECTORY/gave-up" 2>/dev/null; then
    echo "ERROR raylet: timed out during startup" >&2
    exit 1
fi
exec /opt/vllm/current/bin/ray "$@"
