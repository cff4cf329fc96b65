{{/* What each preset knows of its nodes, as YAML. README.md says where that is from. */}}
{{- define "kioo.presets" -}}
default: &default
  socket: /run/containerd/containerd.sock
  contentDir: /var/lib/containerd/io.containerd.content.v1.content
  certsDir: /etc/containerd/certs.d
  configFile: /etc/containerd/config.toml
  quota: false
  seLinuxOptions: {}
kubeadm: *default
kind: *default
aks: *default
eks-al2023: *default
eks-bottlerocket:
  <<: *default
  seLinuxOptions: {user: system_u, role: system_r, type: super_t, level: s0}
gke:
  <<: *default
  certsDir: /etc/containerd/hosts.d
  quota: true
k3s: &rancher
  <<: *default
  socket: /run/k3s/containerd/containerd.sock
  contentDir: /var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content
  certsDir: /var/lib/rancher/k3s/agent/etc/containerd/certs.d
  configFile: /var/lib/rancher/k3s/agent/etc/containerd/config.toml
rke2:
  <<: *rancher
  contentDir: /var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content
  certsDir: /var/lib/rancher/rke2/agent/etc/containerd/certs.d
  configFile: /var/lib/rancher/rke2/agent/etc/containerd/config.toml
talos:
  <<: *default
  certsDir: /etc/cri/conf.d/hosts
  configFile: /etc/cri/containerd.toml
{{- end -}}

{{/* The paths of this release: the preset's, unless values say others. */}}
{{- define "kioo.node" -}}
{{- $preset := get (include "kioo.presets" . | fromYaml) .Values.preset -}}
{{- $c := .Values.containerd -}}
{{- dict
  "socket" ($c.socket | default $preset.socket)
  "contentDir" ($c.contentDir | default $preset.contentDir)
  "certsDir" ($c.certsDir | default $preset.certsDir)
  "configFile" ($c.configFile | default $preset.configFile)
  "seLinuxOptions" (.Values.seLinuxOptions | default $preset.seLinuxOptions)
  "quota" (ternary $preset.quota .Values.priorityQuota (kindIs "invalid" .Values.priorityQuota))
  | toYaml -}}
{{- end -}}
