{{/* Names. The operator appends "-worker-<10 hex digits>" to a group's name and "-scheduler" to a cluster's, within 63. */}}

{{- define "membrain.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- include "membrain.serviceName" (default $full .Values.fullnameOverride) -}}
{{- end -}}

{{/* Helm lets releases be called 2026.1; a Service's name has no dots and begins with a letter. */}}
{{- define "membrain.serviceName" -}}
{{- $name := replace "." "-" . -}}
{{- regexMatch "^[a-z]" $name | ternary $name (printf "m-%s" $name) | trunc 28 | regexFind "^.*[a-z0-9]" -}}
{{- end -}}

{{/* What cannot be changed in place (a Job's pods, what the operator has made of a DaskCluster) is named by revision:
     an upgrade is a new run on a new cluster, and goes on where the old one was. */}}
{{- define "membrain.run" -}}
{{- printf "%s-r%d" (include "membrain.fullname" .) (int .Release.Revision) -}}
{{- end -}}

{{- define "membrain.schedulerHost" -}}
{{- printf "%s-scheduler.%s.svc" (include "membrain.run" .) .Release.Namespace -}}
{{- end -}}

{{- define "membrain.schedulerAddress" -}}
{{- printf "%s://%s:8786" (eq .Values.tls.mode "none" | ternary "tcp" "tls") (include "membrain.schedulerHost" .) -}}
{{- end -}}

{{- define "membrain.tlsSecret" -}}
{{- if eq .Values.tls.mode "secret" -}}
{{- required "tls.secretName: with tls.mode secret, name a Secret that holds ca.crt, tls.crt and tls.key" .Values.tls.secretName -}}
{{- else -}}
{{- printf "%s-tls" (include "membrain.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "membrain.serviceAccount" -}}
{{- $account := index .root.Values.serviceAccounts .which -}}
{{- if $account.create -}}
{{- default (printf "%s-%s" (include "membrain.fullname" .root) .which) $account.name -}}
{{- else -}}
{{- required (printf "serviceAccounts.%s.name: name the account, or let the chart make one (create: true)" .which) $account.name -}}
{{- end -}}
{{- end -}}

{{- define "membrain.priorityClass" -}}
{{- if .own -}}{{ .own }}
{{- else if .root.Values.priorityClasses.create -}}{{ include "membrain.fullname" .root }}-{{ .root.Release.Namespace }}-{{ .which }}
{{- end -}}
{{- end -}}

{{/* Labels of all objects; only the selectors' ones on pods, as the operator selects by whatever it is given. */}}
{{- define "membrain.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "membrain.labels" -}}
{{ include "membrain.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The same with labels of the values' own, which go before ours; (dict "root" $ "more" <labels>). */}}
{{- define "membrain.labelsAnd" -}}
{{- toYaml (mergeOverwrite (include "membrain.labels" .root | fromYaml) (default (dict) .more)) -}}
{{- end -}}

{{- define "membrain.image" -}}
{{- $image := index .root.Values.images .which -}}
{{- $repository := required (printf "images.%s.repository: name the image that you built of the Dockerfile" .which) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default (printf "%s-%s" .root.Chart.AppVersion (eq .which "gpu" | ternary "cuda" "cpu")) $image.tag) -}}
{{- end -}}
{{- end -}}
