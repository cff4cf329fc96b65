#!/usr/bin/env bash
# Installs programs that tests and benchmarks run beside Kioo: hack/tools.sh skopeo nginx ip=iproute2, where a package has
# another name than its program.
#
# What is there already is left alone, silently. What is missing is named, and installed on Debian and its kin by root;
# elsewhere the tests that need it are skipped, which is an error where CI=true. Nothing else of the machine is changed.
set -euo pipefail

missing=()
for tool in "$@"; do
	# nginx lives in /usr/sbin, which is not on every user's path.
	PATH="$PATH:/usr/sbin:/sbin" command -v "${tool%=*}" >/dev/null || missing+=("${tool#*=}")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi

skip() {
	echo "$1, so what needs ${missing[*]} is skipped." >&2
	if [ "${CI:-}" = true ]; then
		exit 1
	fi
	exit 0
}

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	skip "Only root on Debian installs programs here"
fi

# A package's service would start with its installation; nobody asked for a web server on port 80.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

log=$(mktemp)
echo "Installing ${missing[*]}."
export DEBIAN_FRONTEND=noninteractive
# The lock waits for whoever else installs at the moment, but not for ever.
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -n 20 "$log" >&2
	rm -f "$log"
	skip "The installation failed"
fi
rm -f "$log"
# Nor at the next boot, if that is what the package's author thinks it is for.
if [[ " ${missing[*]} " == *" nginx "* ]] && command -v systemctl >/dev/null; then
	systemctl --quiet disable nginx 2>/dev/null || true
fi
