#!/usr/bin/env bash
# Says before the tests run which of them will be skipped here: each says so itself too, but only go test -v shows it.
set -euo pipefail

if [ "$(uname -s)" != Linux ]; then
	echo "This is not Linux, so what needs network namespaces, containerd, mounts or seccomp is skipped." >&2
elif [ "$(id -u)" != 0 ]; then
	echo "You are not root, so what needs network namespaces (fleets, attacks), containerd or mounts is skipped." >&2
fi
