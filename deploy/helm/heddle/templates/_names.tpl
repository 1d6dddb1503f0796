{{- define "heddle.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "heddle.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "heddle.labels" -}}
{{ include "heddle.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Whether heddle gets certificates by itself, or has them in files: "yes" or nothing. */}}
{{- define "heddle.acme" -}}
{{- if dig "tls" "acme" "email" "" .Values.config }}yes{{ end }}
{{- end }}
{{- define "heddle.tls" -}}
{{- if or (include "heddle.acme" .) (dig "tls" "cert_file" "" .Values.config) }}yes{{ end }}
{{- end }}
