{{- define "kioo.fullname" -}}
{{- .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-kioo" .Release.Name) (contains "kioo" .Release.Name)) | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "kioo.selector" -}}
app.kubernetes.io/name: kioo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kioo.labels" -}}
{{ include "kioo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "kioo.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "kioo.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* By digest where there is one: a tag may be moved. A release's own is in Chart.yaml; make chart-digest writes it. */}}
{{- define "kioo.image" -}}
{{- $released := ternary (index .Chart.Annotations "kioo.dev/image-digest") "" (empty .Values.image.tag) -}}
{{- with .Values.image.digest | default $released -}}
{{ $.Values.image.repository }}@{{ . }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "kioo.keySecret" -}}
{{- .Values.clusterKey.existingSecret | default (printf "%s-key" (include "kioo.fullname" .)) -}}
{{- end -}}

{{/* Nine tenths of the memory limit, in MiB, as Go wants it. */}}
{{- define "kioo.goMemLimit" -}}
{{- if .Values.goMemLimit -}}
{{ .Values.goMemLimit }}
{{- else -}}
{{- $limit := dig "limits" "memory" "" .Values.resources | toString -}}
{{- if regexMatch "^[0-9]+Gi$" $limit -}}
{{ div (mul (trimSuffix "Gi" $limit | int64) 1024 9) 10 }}MiB
{{- else if regexMatch "^[0-9]+Mi$" $limit -}}
{{ div (mul (trimSuffix "Mi" $limit | int64) 9) 10 }}MiB
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is mounted where, for the mirror and for those who clean up after it. */}}
{{- define "kioo.securityContext" -}}
{{- $node := include "kioo.node" . | fromYaml -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- with $node.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The configuration file. */}}
{{- define "kioo.config" -}}
{{- $node := include "kioo.node" . | fromYaml -}}
{{- $keys := list -}}
{{- range .Values.clusterKey.names -}}
{{- $keys = append $keys (printf "/etc/kioo/keys/%s" .) -}}
{{- end -}}
{{- $bootstrap := dict -}}
{{- $kubernetes := dict "topology" .Values.kubernetes.topology "events" .Values.kubernetes.events "startupTaint" .Values.kubernetes.startupTaint -}}
{{- if .Values.kubernetes.members -}}
{{- $_ := set $kubernetes "service" (printf "%s/%s" .Release.Namespace (include "kioo.fullname" .)) -}}
{{- else -}}
{{- $_ := set $bootstrap "dns" (printf "%s.%s.svc:%v" (include "kioo.fullname" .) .Release.Namespace .Values.ports.discovery) -}}
{{- end -}}
{{- $config := dict
  "apiVersion" "kioo.dev/v1alpha1"
  "kind" "MirrorConfiguration"
  "dataDir" .Values.dataDir
  "mirror" (dict "listen" (list (printf "127.0.0.1:%v" .Values.ports.mirror)))
  "metrics" (dict "listen" (printf "%s:%v" .Values.metrics.address .Values.ports.metrics))
  "health" (dict "listen" (printf "127.0.0.1:%v" .Values.ports.health))
  "containerd" (dict "address" $node.socket "contentDir" $node.contentDir "certsDir" $node.certsDir "configFile" $node.configFile "registries" .Values.containerd.registries)
  "peers" (dict "keyFiles" $keys)
  "discovery" (dict "bootstrap" $bootstrap)
  "kubernetes" $kubernetes
-}}
{{- if .Values.credentialsSecret -}}
{{- $_ := set $config "credentials" (dict "dockerConfig" "/etc/kioo/credentials/config.json") -}}
{{- end -}}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{/* Flags for what differs from node to node. */}}
{{- define "kioo.nodeFlags" -}}
- --config=/etc/kioo/kioo.yaml
- --peer-listen=$(HOST_IPS)
- --discovery-listen=$(HOST_IPS)
- --node-name=$(NODE_NAME)
{{- end -}}

{{- define "kioo.nodeEnv" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: HOST_IPS
  valueFrom: {fieldRef: {fieldPath: status.{{ ternary "hostIPs" "hostIP" (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}}}
{{- end -}}

{{- define "kioo.cleanupHook" -}}
helm.sh/hook: post-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
