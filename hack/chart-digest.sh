#!/usr/bin/env bash
# Has the chart in a directory, or this one's, name its image by the digest of a release, and deploy/ beside it too:
# chart-digest.sh [DIGEST [ROOT]]. With an empty digest it is the tag again, with none what the chart says already. Charts
# without one go by a tag, which can be moved.
set -euo pipefail
root=${2:-$(dirname "$0")/..}
chart=$root/charts/kioo/Chart.yaml
digest=${1-$(sed -n 's/^  kioo\.dev\/image-digest: //p' "$chart")}
if [ -n "$digest" ] && ! [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
	echo "chart-digest.sh: $digest is not the digest of an image, sha256: and 64 hexadecimal digits" >&2
	exit 2
fi
sed -i '/^annotations:$/,/^  kioo\.dev\/image-digest:/d' "$chart"
image="newTag: $(sed -n 's/^appVersion: //p' "$chart")"
if [ -n "$digest" ]; then
	printf 'annotations:\n  kioo.dev/image-digest: %s\n' "$digest" >>"$chart"
	image="digest: $digest"
fi
# Without this kustomize would put its tag in the place of the digest.
sed -i -E "s/^    (newTag|digest): .*/    $image/" "$root/deploy/kustomization.yaml"
