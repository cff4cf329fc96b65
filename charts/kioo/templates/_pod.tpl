{{/* What all pods on the host network have in common. */}}
{{- define "kioo.podSpec" -}}
hostNetwork: true
# Upstream registries are looked up as the node does, so that nothing waits for the cluster's DNS.
dnsPolicy: {{ ternary "Default" "ClusterFirstWithHostNet" .Values.kubernetes.members }}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The configuration, the data directory and the registry directory. */}}
{{- define "kioo.mounts" -}}
- {name: config, mountPath: /etc/kioo/kioo.yaml, subPath: kioo.yaml, readOnly: true}
- {name: certs, mountPath: {{ (include "kioo.node" . | fromYaml).certsDir }}}
- {name: data, mountPath: {{ .Values.dataDir }}}
{{- end -}}

{{- define "kioo.volumes" -}}
{{- $node := include "kioo.node" . | fromYaml -}}
- name: config
  configMap: {name: {{ .configMap | default (include "kioo.fullname" .) }}}
- name: certs
  hostPath: {path: {{ $node.certsDir }}, type: DirectoryOrCreate}
- name: data
  hostPath: {path: {{ .Values.dataDir }}, type: DirectoryOrCreate}
{{- end -}}

{{/* containerd, for those who read what it holds. */}}
{{- define "kioo.containerdMounts" -}}
{{- $node := include "kioo.node" . | fromYaml -}}
# Its directory, because the socket is another file each time that containerd starts, and a mount of the old one
# would lead nowhere. There is no directory with the socket alone. What containerd has mounted there for pods goes
# from here too when they end (HostToContainer); otherwise the mirror would keep it.
- {name: runtime, mountPath: {{ dir $node.socket }}, readOnly: true, mountPropagation: HostToContainer}
- {name: content, mountPath: {{ $node.contentDir }}, readOnly: true}
- {name: containerd, mountPath: {{ dir $node.configFile }}, readOnly: true}
{{- end -}}

{{- define "kioo.containerdVolumes" -}}
{{- $node := include "kioo.node" . | fromYaml -}}
- name: runtime
  hostPath: {path: {{ dir $node.socket }}, type: Directory}
- name: content
  hostPath: {path: {{ $node.contentDir }}, type: Directory}
- name: containerd
  hostPath: {path: {{ dir $node.configFile }}, type: DirectoryOrCreate}
{{- end -}}

{{- define "kioo.keyMounts" -}}
- {name: keys, mountPath: /etc/kioo/keys, readOnly: true}
{{- if .Values.credentialsSecret }}
- {name: credentials, mountPath: /etc/kioo/credentials, readOnly: true}
{{- end }}
{{- end -}}
