{{/* Spec of the driver's Job. */}}
{{- define "membrain.driverJob" -}}
backoffLimit: {{ int .Values.driver.backoffLimit }}
completions: 1
parallelism: 1
{{- if .Values.driver.activeDeadlineSeconds }}
activeDeadlineSeconds: {{ int .Values.driver.activeDeadlineSeconds }}
{{- end }}
ttlSecondsAfterFinished: {{ int .Values.driver.ttlSecondsAfterFinished }}
podFailurePolicy:
  rules:
    # Evicted, drained, or its node is gone: not its fault, start it again.
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    # 2: bad usage or input. It will be as bad the next time.
    - action: FailJob
      onExitCodes: {containerName: driver, operator: In, values: [2]}
      onPodConditions: []   # the schemas of 1.26 to 1.28 insist on it
template:
  metadata:
    labels:
      {{- include "membrain.selectorLabels" . | nindent 6 }}
      membrain-cloud/component: driver
      membrain-cloud/run: {{ include "membrain.run" . }}
    annotations:
      # As long as it runs, no cluster autoscaler takes its node away to save money.
      cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
      karpenter.sh/do-not-disrupt: "true"
  spec: {{- include "membrain.driverPod" . | nindent 4 }}
{{- end -}}

{{- define "membrain.driverPod" -}}
{{- $config := required "run.config: name the copick config or the manifest of the run" .Values.run.config -}}
restartPolicy: Never
serviceAccountName: {{ include "membrain.serviceAccount" (dict "root" . "which" "driver") | quote }}
automountServiceAccountToken: true
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .Values.run.graceSeconds 40 }}
securityContext: {{- include "membrain.podSecurity" . | nindent 2 }}
{{- include "membrain.placement" (dict "root" . "of" .Values.driver "priority" "critical") }}
initContainers:
  - name: wait-for-scheduler
    image: {{ include "membrain.image" (dict "root" . "which" "cpu") | quote }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    command: [python3, -c]
    args:
      - |
        import socket, sys, time
        for _ in range(360):
            try:
                socket.create_connection((sys.argv[1], 8786), timeout=5).close()
                break
            except OSError as error:
                print("waiting for the scheduler:", error, flush=True)
                time.sleep(5)
        else:
            sys.exit("no scheduler within half an hour: does the Dask operator run?")
      - {{ include "membrain.schedulerHost" . | quote }}
    resources: {{- toYaml (dict "requests" (dict "cpu" "50m" "memory" "64Mi") "limits" (dict "memory" "128Mi")) | nindent 6 }}
    securityContext: {{- include "membrain.containerSecurity" . | nindent 6 }}
{{- if .Values.weights }}
  {{- include "membrain.weightsContainer" (dict "root" . "image" "cpu") | nindent 2 }}
{{- end }}
{{- if .Values.portal.enabled }}
  - name: select
    image: {{ include "membrain.image" (dict "root" . "which" "cpu") | quote }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    command: [membrain-cloud, portal, select]
    args:
      - {{ trimSuffix "/manifest.parquet" $config | replace "$(" "$$(" | quote }}
      - --overwrite
{{- range .Values.portal.select }}
      - {{ . | toString | replace "$(" "$$(" | quote }}
{{- end }}
    env: {{- include "membrain.env" (dict "root" .) | nindent 6 }}
    {{- include "membrain.envFrom" (dict "root" .) | nindent 4 }}
    resources: {{- toYaml .Values.driver.resources | nindent 6 }}
    securityContext: {{- include "membrain.containerSecurity" . | nindent 6 }}
    volumeMounts: {{- include "membrain.volumeMounts" (dict "root" .) | nindent 6 }}
{{- end }}
containers:
  - name: driver
    image: {{ include "membrain.image" (dict "root" . "which" "cpu") | quote }}
    imagePullPolicy: {{ .Values.images.pullPolicy }}
    command: [membrain-cloud, run]
    args: {{- include "membrain.driverArguments" . | nindent 6 }}
    env:
      {{- include "membrain.env" (dict "root" .) | nindent 6 }}
      - name: POD_NAMESPACE
        valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
    {{- include "membrain.envFrom" (dict "root" .) | nindent 4 }}
    resources: {{- toYaml .Values.driver.resources | nindent 6 }}
    securityContext: {{- include "membrain.containerSecurity" . | nindent 6 }}
    ports:
      - {name: metrics, containerPort: {{ int .Values.monitoring.metricsPort }}, protocol: TCP}
    volumeMounts:
      {{- include "membrain.volumeMounts" (dict "root" .) | nindent 6 }}
      - {name: settings, mountPath: /etc/membrain-cloud/settings, readOnly: true}
volumes:
  {{- include "membrain.volumes" (dict "root" . "of" .Values.driver) | nindent 2 }}
  - name: settings
    configMap: {name: {{ include "membrain.run" . }}-settings}
{{- end -}}

{{/* "$(" would be an environment variable of the pod in Kubernetes' eyes: doubled, it is only text. */}}
{{- define "membrain.driverArguments" -}}
- {{ .Values.run.config | replace "$(" "$$(" | quote }}
- --scheduler
- {{ include "membrain.schedulerAddress" . | quote }}
- --settings
- /etc/membrain-cloud/settings/settings.yaml
- --metrics-port
- {{ int .Values.monitoring.metricsPort | toString | quote }}
- --log-file
- "-"
- --grace
- {{ int .Values.run.graceSeconds | toString | quote }}
{{- with .Values.run.tables }}
- --tables
- {{ . | replace "$(" "$$(" | quote }}
{{- end }}
{{- with .Values.run.stages }}
- --stages
- {{ join "," . | quote }}
{{- end }}
{{- range .Values.run.runs }}
- --run
- {{ . | toString | replace "$(" "$$(" | quote }}
{{- end }}
{{- $run := include "membrain.run" . -}}
{{- /* Groups of one kind are filled in this order: spot machines, then those on demand; else by name. */ -}}
{{- range $capacity := list "spot" "onDemand" }}
{{- range $name, $group := $.Values.workers }}
{{- if and $group.enabled (eq $group.capacity $capacity) (gt (int $group.max) 0) }}
- --scale
- {{ printf "%s=%s-%s:%d" $group.kind $run $name (int $group.max) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- $expected := dict }}
{{- range $name, $group := .Values.workers }}
{{- if and $group.enabled (eq (int $group.max) 0) (gt (int $group.replicas) 0) }}
{{- $_ := set $expected $group.kind true }}
{{- end }}
{{- end }}
{{- range $kind := keys $expected | sortAlpha }}
- --expect
- {{ $kind }}
{{- end }}
{{- range .Values.run.extraArgs }}
- {{ . | toString | replace "$(" "$$(" | quote }}
{{- end }}
{{- end -}}
