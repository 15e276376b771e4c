{{- /* The pod, the same for a Deployment and a StatefulSet. */ -}}
{{- define "sandbox-executor.pod" -}}
{{- include "sandbox-executor.check" . -}}
{{- $port := int (.Values.config.EXECUTOR_PORT | default 8080) -}}
{{- $state := .Values.config.STATE_PATH | default "/var/lib/sandbox-executor" -}}
{{- $workspace := .Values.config.WORKSPACE_PATH | default "/workspace" -}}
metadata:
  labels:
    {{- include "sandbox-executor.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  # It calls no API of Kubernetes.
  automountServiceAccountToken: false
  # A Service named "executor" would set EXECUTOR_PORT to tcp://…
  enableServiceLinks: false
  {{- if not (kindIs "invalid" .Values.hostUsers) }}
  hostUsers: {{ .Values.hostUsers }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  # The time before SIGTERM, SHUTDOWN_GRACE, and what the service takes to report its end and to close its files.
  terminationGracePeriodSeconds: {{ add (int .Values.preStopSeconds) (int .Values.config.SHUTDOWN_GRACE) 15 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- else if ne .Values.spread.hosts "none" }}
  affinity:
    podAntiAffinity:
      {{- if eq .Values.spread.hosts "required" }}
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "sandbox-executor.selector" . | nindent 14 }}
      {{- else }}
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "sandbox-executor.selector" . | nindent 16 }}
      {{- end }}
  {{- end }}
  {{- if .Values.spread.zones }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "sandbox-executor.selector" . | nindent 10 }}
  {{- end }}
  containers:
    - name: sandbox-executor
      image: {{ include "sandbox-executor.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [sandbox-executor, serve]
      ports:
        - name: http
          containerPort: {{ $port }}
      env:
        {{- with .Values.tokens.secretName }}
        - name: EXECUTOR_API_TOKEN
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: {{ $.Values.tokens.apiTokenKey }}
        - name: INTERNAL_API_TOKEN
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: {{ $.Values.tokens.internalApiTokenKey }}
              optional: true
        {{- end }}
        {{- if not .Values.config.CONTAINER_ID }}
        - name: CONTAINER_ID
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
        {{- if not .Values.config.POD_NAME }}
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        {{- end }}
        {{- range $name, $value := .Values.config }}
        {{- if not (kindIs "invalid" $value) }}
        - name: {{ $name }}
          value: {{ include "sandbox-executor.setting" $value | quote }}
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- $context := dict }}
        {{- range $key, $value := .Values.securityContext }}
        {{- if not (kindIs "invalid" $value) }}
        {{- if and (hasSuffix "Profile" $key) (ne $value.type "Localhost") }}
        {{- $value = pick $value "type" }}
        {{- end }}
        {{- $_ := set $context $key $value }}
        {{- end }}
        {{- end }}
        {{- toYaml $context | nindent 8 }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .Values.preStopSeconds }}
      startupProbe:
        tcpSocket:
          port: http
        {{- toYaml .Values.probes.startup | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /health
          port: http
          {{- with .Values.config.ALLOWED_HOSTS }}
          # Other names are refused, and the kubelet would come by the pod's address.
          httpHeaders:
            - name: Host
              value: {{ first (splitList "," (include "sandbox-executor.setting" .)) | trim | quote }}
          {{- end }}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      livenessProbe:
        # Whatever it answers, it is alive: a restart makes no room on a disk, and would end what runs.
        exec:
          command:
            - curl
            - --silent
            - --output
            - /dev/null
            - --max-time
            - {{ max 1 (sub (int .Values.probes.liveness.timeoutSeconds) 1) | quote }}
            - http://localhost:{{ $port }}/health
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      volumeMounts:
        - name: state
          mountPath: {{ $state }}
        - name: workspace
          mountPath: {{ $workspace }}
        - name: tmp
          mountPath: /tmp
        {{- with .Values.config.LOG_FILE }}
        - name: log
          mountPath: {{ dir . }}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ .Values.storage.tmpSize }}
    {{- if .Values.config.LOG_FILE }}
    - name: log
      emptyDir: {}
    {{- end }}
    {{- if eq .Values.kind "Deployment" }}
    {{- range $name := list "state" "workspace" }}
    {{- $volume := index $.Values.storage $name }}
    - name: {{ $name }}
      {{- if $volume.existingClaim }}
      persistentVolumeClaim:
        claimName: {{ $volume.existingClaim }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ $volume.size }}
      {{- end }}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
