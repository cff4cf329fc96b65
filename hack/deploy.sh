#!/usr/bin/env bash
# Writes the plain manifests of deploy/ from the chart: deploy.sh HELM DIRECTORY. What runs is in kioo.yaml, and
# what takes it off the nodes again in cleanup.yaml.
set -euo pipefail
helm=$1 out=$2
cd "$(dirname "$0")/.."
render() {
	echo "# Generated from charts/kioo by make chart; change it there."
	"$helm" template kioo charts/kioo --namespace kioo-system --kube-version 1.34.0 \
		--set clusterKey.existingSecret=kioo-key "$@" |
		grep -vE '^ +(helm\.sh/(hook|chart).*|app\.kubernetes\.io/managed-by: Helm)$' |
		# Annotations of which none is left.
		awk '/^  annotations:$/ {held = $0; next} held && /^    / {print held} {held = ""; print}'
}
render --no-hooks >"$out/kioo.yaml"
render --show-only templates/cleanup.yaml >"$out/cleanup.yaml"
