{{/* What the pods of driver, scheduler and workers share. Each takes (dict "root" $ ...). */}}

{{- define "membrain.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "membrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* nodeSelector, tolerations: those of its capacity (spot or onDemand), and its own. */}}
{{- define "membrain.placement" -}}
{{- $capacity := index .root.Values.capacity .of.capacity -}}
{{- with merge (dict) .of.nodeSelector $capacity.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat $capacity.tolerations .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "membrain.priorityClass" (dict "root" .root "own" .of.priorityClassName "which" .priority) }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "membrain.env" -}}
- {name: DASK_SCHEDULER_ADDRESS, value: {{ include "membrain.schedulerAddress" .root | quote }}}
{{- with .root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Threads of the libraries below: without these each of them takes all cores of the node. */}}
{{- define "membrain.threads" -}}
{{- $threads := .threads -}}
{{- range list "OMP_NUM_THREADS" "MKL_NUM_THREADS" "OPENBLAS_NUM_THREADS" "NUMBA_NUM_THREADS" }}
- {name: {{ . }}, value: {{ $threads | toString | quote }}}
{{- end }}
{{- end -}}

{{- define "membrain.envFrom" -}}
{{- with .root.Values.credentials.secretName }}
envFrom:
  - secretRef: {name: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "membrain.volumeMounts" -}}
- {name: scratch, mountPath: /scratch}
- {name: dask-config, mountPath: /etc/dask, readOnly: true}
{{- if ne .root.Values.tls.mode "none" }}
- {name: tls, mountPath: /etc/membrain-cloud/tls, readOnly: true}
{{- end }}
{{- if .root.Values.weights }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- with .root.Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "membrain.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ index .of.resources.limits "ephemeral-storage" | quote }}}
- name: dask-config
  configMap: {name: {{ include "membrain.run" .root }}-dask}
{{- if ne .root.Values.tls.mode "none" }}
- name: tls
  secret: {secretName: {{ include "membrain.tlsSecret" .root | quote }}, defaultMode: 288}
{{- end }}
{{- if .root.Values.weights }}
- name: models
  emptyDir: {sizeLimit: {{ index .of.resources.limits "ephemeral-storage" | quote }}}
{{- end }}
{{- with .root.Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Downloads each model by its pinned URL, which refuses any other content, and puts it where settings name it. */}}
{{- define "membrain.weightsContainer" -}}
{{- $root := .root -}}
- name: weights
  image: {{ include "membrain.image" (dict "root" .root "which" .image) | quote }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  command: [membrain-cloud, models, fetch, --directory, /models]
  args:
{{- range .root.Values.weights }}
    - {{ printf "%s=%s#sha256=%s" .name .url .sha256 | replace "$(" "$$(" | quote }}
{{- end }}
  env: {{- include "membrain.env" (dict "root" .root) | nindent 4 }}
  {{- include "membrain.envFrom" (dict "root" .root) | nindent 2 }}
  resources: {{- toYaml (dict "requests" (dict "cpu" "100m" "memory" "1Gi") "limits" (dict "memory" "1Gi")) | nindent 4 }}
  securityContext: {{- include "membrain.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: models, mountPath: /models}
{{- with $root.Values.volumeMounts }}
{{ toYaml . | indent 4 }}
{{- end }}
{{- end -}}
