#!/usr/bin/env bash
# Prints the flag of go test for the race detector, or nothing where it can't be built: it needs cgo.
set -euo pipefail

read -r compiler _ <<<"$(go env CC)"
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$compiler" >/dev/null; then
	echo -race
else
	echo "There is no C compiler, so the tests run without the race detector." >&2
fi
