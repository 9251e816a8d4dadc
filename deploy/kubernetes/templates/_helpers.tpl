{{/* Names. */}}
{{- define "ml.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "ml.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ml.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What a selector has: never changed by an upgrade. With a dict of root and component. */}}
{{- define "ml.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "ml.labels" -}}
{{ include "ml.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* One of the service's own images. With a dict of root and image. */}}
{{- define "ml.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- index .root.Values.images .image }}:{{ default .root.Chart.AppVersion .root.Values.image.tag -}}
{{- end -}}

{{/* Of every pod. With a dict of root and user. */}}
{{- define "ml.pod" -}}
serviceAccountName: {{ include "ml.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Where a pod may run: of anything with nodeSelector, tolerations and affinity. */}}
{{- define "ml.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "ml.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* The Secret that has Redis's password, and its key; empty where there is none. */}}
{{- define "ml.redisSecret" -}}
{{- if .Values.redis.existingSecret.name -}}
{{- .Values.redis.existingSecret.name -}}
{{- else if .Values.redis.bundled.enabled -}}
{{- printf "%s-redis" (include "ml.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "ml.redisSecretKey" -}}
{{- if .Values.redis.existingSecret.name }}{{ .Values.redis.existingSecret.key }}{{ else }}password{{ end -}}
{{- end -}}

{{/* What the API, workers and Flower have alike. */}}
{{- define "ml.env" -}}
{{- $redis := .Values.redis -}}
- name: ML_REDIS_URL
{{- if $redis.bundled.enabled }}
  value: redis://{{ include "ml.fullname" . }}-redis:6379/0
{{- else if $redis.urlSecret.name }}
  valueFrom:
    secretKeyRef: {name: {{ $redis.urlSecret.name }}, key: {{ $redis.urlSecret.key }}}
{{- else }}
  value: {{ required "redis.url or redis.urlSecret.name: where Redis is, or redis.bundled.enabled=true" $redis.url | quote }}
{{- end }}
{{- if include "ml.redisSecret" . }}
- name: ML_REDIS_PASSWORD_FILE
  value: /run/secrets/redis/password
{{- end }}
- name: ML_MODELS_FILE
  value: /etc/ml-service/models/models.yaml
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "ml.mounts" -}}
- {name: models, mountPath: /etc/ml-service/models, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if include "ml.redisSecret" . }}
- {name: redis-password, mountPath: /run/secrets/redis, readOnly: true}
{{- end }}
{{- with .Values.redis.tlsSecret }}
{{- if .name }}
- {name: redis-tls, mountPath: {{ .mountPath }}, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "ml.volumes" -}}
- name: models
  configMap: {name: {{ default (printf "%s-models" (include "ml.fullname" .)) .Values.existingModels }}}
- name: tmp
  emptyDir: {}
{{- with include "ml.redisSecret" . }}
- name: redis-password
  secret:
    secretName: {{ . }}
    items: [{key: {{ include "ml.redisSecretKey" $ }}, path: password}]
{{- end }}
{{- with .Values.redis.tlsSecret.name }}
- name: redis-tls
  secret: {secretName: {{ . }}}
{{- end }}
{{- end -}}

{{/* Models by name, and pools by name: maps that an operator's own replace, not add to, as Helm would have it. */}}
{{- define "ml.models" -}}
{{- if .Values.models -}}
{{- toYaml .Values.models -}}
{{- else -}}
{{- (.Files.Get "files/models.yaml" | fromYaml).models | toYaml -}}
{{- end -}}
{{- end -}}

{{- define "ml.pools" -}}
{{- default (dict "default" dict) .Values.pools | toYaml -}}
{{- end -}}

{{/* A pool with its defaults. With a dict of root and pool; as YAML. */}}
{{- define "ml.pool" -}}
{{- $pool := mergeOverwrite (deepCopy .root.Values.poolDefaults) (deepCopy (default dict .pool)) -}}
{{- toYaml $pool -}}
{{- end -}}

{{/* The names of the models that a pool takes; of "@local" and the like all of them. With a dict of root and pool. */}}
{{- define "ml.poolModels" -}}
{{- $names := .pool.models -}}
{{- $group := false -}}
{{- range $names }}{{ if hasPrefix "@" . }}{{ $group = true }}{{ end }}{{ end -}}
{{- if or $group (not $names) }}{{ $names = include "ml.models" .root | fromYaml | keys | sortAlpha }}{{ end -}}
{{- toYaml $names -}}
{{- end -}}

{{/* Seconds that a batch in flight may need: the longest predict of any model of the pool. */}}
{{- define "ml.grace" -}}
{{- if ne .pool.graceSeconds nil -}}
{{- .pool.graceSeconds -}}
{{- else -}}
{{- $longest := 0 -}}
{{- $models := include "ml.models" .root | fromYaml -}}
{{- range include "ml.poolModels" . | fromYamlArray -}}
{{- $longest = max $longest (dig . "limits" "timeout_s" 60 $models | ceil | int) -}}
{{- end -}}
{{- default 60 $longest -}}
{{- end -}}
{{- end -}}

{{/* A password that stays what it is over upgrades. With a dict of root, name and key. */}}
{{- define "ml.password" -}}
{{- $old := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- if and $old (hasKey (default dict $old.data) .key) -}}
{{- index $old.data .key -}}
{{- else -}}
{{- randAlphaNum 43 | b64enc -}}
{{- end -}}
{{- end -}}
