{{- /* What several templates say alike. */ -}}

{{- define "sandbox-executor.selector" -}}
app.kubernetes.io/name: sandbox-executor
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sandbox-executor.labels" -}}
{{ include "sandbox-executor.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sandbox-executor.metadata" -}}
name: {{ .Values.name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "sandbox-executor.labels" . | nindent 2 }}
{{- end }}

{{- define "sandbox-executor.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* A setting as the program reads it. Helm holds every number as a float, which prints large ones as 6.7e+07. */ -}}
{{- define "sandbox-executor.setting" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- /* Whether a volume outlives the pod under a Deployment. */ -}}
{{- define "sandbox-executor.hasExistingClaim" -}}
{{- if and (eq .Values.kind "Deployment") (or .Values.storage.state.existingClaim .Values.storage.workspace.existingClaim) -}}
true
{{- end -}}
{{- end }}

{{- /* What no schema can say: values that are right one by one and wrong together. */ -}}
{{- define "sandbox-executor.check" -}}
{{- if and (eq .Values.kind "StatefulSet") (or .Values.storage.state.existingClaim .Values.storage.workspace.existingClaim) }}
{{- fail "storage.*.existingClaim is for kind Deployment: a StatefulSet makes a claim for each pod" }}
{{- end }}
{{- if and (include "sandbox-executor.hasExistingClaim" .) (or .Values.autoscaling.enabled (gt (int .Values.replicas) 1)) }}
{{- fail "with storage.*.existingClaim there can be one pod: the first one locks its STATE_PATH; take kind StatefulSet for more" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) }}
{{- fail "autoscaling.maxReplicas is less than autoscaling.minReplicas" }}
{{- end }}
{{- if and (eq (.Values.securityContext.procMount | default "Default") "Unmasked") (ne (toString .Values.hostUsers) "false") }}
{{- fail "securityContext.procMount Unmasked needs hostUsers false; Kubernetes refuses it otherwise" }}
{{- end }}
{{- if and .Values.securityContext.privileged (eq (toString .Values.securityContext.allowPrivilegeEscalation) "false") }}
{{- fail "securityContext.privileged needs allowPrivilegeEscalation null; Kubernetes refuses false" }}
{{- end }}
{{- if and (eq (toString .Values.securityContext.runAsUser) "0") .Values.securityContext.runAsNonRoot }}
{{- fail "securityContext.runAsUser 0 needs runAsNonRoot false; the pod never starts otherwise" }}
{{- end }}
{{- if regexMatch "^(127\\.|localhost$|\\[?::1\\]?$)" (toString .Values.config.EXECUTOR_HOST) }}
{{- fail "config.EXECUTOR_HOST is a loopback address: neither the Service nor a probe could reach it" }}
{{- end }}
{{- if eq (toString .Values.config.EXECUTOR_PORT) "0" }}
{{- fail "config.EXECUTOR_PORT 0 is any free port, which the Service can't know" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.config.ALLOWED_HOSTS }}
{{- fail "serviceMonitor scrapes by the pod's address, which config.ALLOWED_HOSTS refuses with 403; leave one of them out" }}
{{- end }}
{{- if and .Values.config.CONTROL_PLANE_URL .Values.networkPolicy.enabled (not .Values.networkPolicy.controlPlane.peers) }}
{{- fail "config.CONTROL_PLANE_URL is set and networkPolicy.controlPlane.peers lets nothing out to it" }}
{{- end }}
{{- end }}
