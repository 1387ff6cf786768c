{{/* Pod of a worker; (dict "root" $ "group" <one of values.workers>). */}}
{{- define "membrain.workerPod" -}}
{{- $image := .group.kind -}}
{{- if and (eq .group.kind "gpu") (ne (index .group.resources.limits "nvidia.com/gpu" | default "" | toString) "1") -}}
{{- fail "workers: a group of kind gpu needs resources.limits {nvidia.com/gpu: \"1\"}: one GPU, one worker" -}}
{{- end -}}
serviceAccountName: {{ include "membrain.serviceAccount" (dict "root" .root "which" "workers") | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Always
# On SIGTERM (a spot node goes) a worker takes no more tasks, and has all this time but 10 s to end those it has.
terminationGracePeriodSeconds: {{ int .root.Values.workerTerminationGraceSeconds }}
securityContext: {{- include "membrain.podSecurity" . | nindent 2 }}
{{- include "membrain.placement" (dict "root" .root "of" .group "priority" "workers") }}
{{- if .root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 2
    topologyKey: {{ .root.Values.topologySpread.topologyKey | quote }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        dask.org/cluster-name: {{ include "membrain.run" .root }}
        dask.org/component: worker
{{- end }}
{{- if .root.Values.weights }}
initContainers: {{- include "membrain.weightsContainer" (dict "root" .root "image" $image) | nindent 2 }}
{{- end }}
containers:
  - name: worker
    image: {{ include "membrain.image" (dict "root" .root "which" $image) | quote }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    command: [dask, worker]
    args:
      - --name
      - $(DASK_WORKER_NAME)
      - --nthreads
      - {{ int .group.slots | toString | quote }}
      # Without it Dask takes the share of the memory that its threads are of the node's cores.
      - --memory-limit
      - {{ include "membrain.bytes" .group.resources.limits.memory | quote }}
      - --resources
      - {{ printf "%s=%d" (upper .group.kind) (int .group.slots) | quote }}
      - --worker-port
      - "8788"
      - --nanny-port
      - "8789"
      - --dashboard-address
      - ":8790"
      # It lets the worker end its tasks, within the pod's own time. Without it a nanny waits for 8 s.
      - --preload-nanny
      - membrain_cloud.pipeline.runners.worker_grace
      - --local-directory
      - /scratch
      - --death-timeout
      - "600"
    env:
      {{- include "membrain.env" (dict "root" .root) | nindent 6 }}
      {{- include "membrain.threads" (dict "threads" (int .group.cpus)) | nindent 6 }}
    {{- include "membrain.envFrom" (dict "root" .root) | nindent 4 }}
    resources: {{- toYaml .group.resources | nindent 6 }}
    securityContext: {{- include "membrain.containerSecurity" . | nindent 6 }}
    ports:
      - {name: comm, containerPort: 8788, protocol: TCP}
      - {name: nanny, containerPort: 8789, protocol: TCP}
      - {name: http-metrics, containerPort: 8790, protocol: TCP}
    volumeMounts: {{- include "membrain.volumeMounts" (dict "root" .root) | nindent 6 }}
volumes: {{- include "membrain.volumes" (dict "root" .root "of" .group) | nindent 2 }}
{{- end -}}
