#!/usr/bin/env bash
# Renders the chart in the ways that it can be configured, strictly. Wants Go, which fetches and builds Helm: two
# minutes of processor time on a machine that did not do so before.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
GOFLAGS=-mod=mod GOBIN=$work go install helm.sh/helm/v3/cmd/helm@v3.22.0

# render renders the chart with the values on its standard input, and prints what comes out.
render() {
	cat >"$work/values.yaml"
	"$work/helm" lint --strict --quiet heddle -f "$work/values.yaml" >&2
	"$work/helm" template vpn heddle --namespace net -f "$work/values.yaml"
}

# expect wants each pattern somewhere in its standard input.
expect() {
	local text
	text=$(cat)
	for pattern in "$@"; do
		grep -q -- "$pattern" <<<"$text" || { printf 'the chart has no %s in\n%s\n' "$pattern" "$text" >&2; exit 1; }
	done
}

render </dev/null | expect 'kind: StatefulSet' 'volumeClaimTemplates' 'protocol: UDP' 'externalTrafficPolicy: Local' 'readOnlyRootFilesystem: true'
render <<<'{persistence: {existingClaim: mine}, image: {tag: v1.2.3}}' | expect 'claimName: "mine"' 'image: "heddle:v1.2.3"'
render <<<'{config: {server_url: "https://a.example.com", tls: {acme: {email: a@example.com}}}, service: {type: LoadBalancer}}' |
	expect 'port: 443' 'HEDDLE_HTTP_LISTEN_ADDR' 'email: a@example.com'
render <<'VALUES' | expect 'emptyDir' 'secretRef: {name: "database"}' 'secretName: "secrets"' 'kind: Ingress' 'host: "vpn.example.com"' 'secretName: "vpn-tls"'
persistence: {enabled: false}
envFromSecrets: [database]
secretFiles: secrets
ingress: {enabled: true, className: nginx, annotations: {cert-manager.io/cluster-issuer: ca}, tlsSecret: vpn-tls}
stun: {enabled: false}
config:
  server_url: https://vpn.example.com
  trusted_proxies: [10.0.0.0/8]
  oidc: {providers: [{name: google, issuer: "https://accounts.google.com", client_id: ID, client_secret_file: /etc/heddle/secrets/google}]}
VALUES
if render <<<'{ingress: {enabled: true}, config: {tls: {cert_file: /c, key_file: /k}}}' >/dev/null 2>&1; then
	echo "the chart takes an ingress before a server with its own certificate" >&2
	exit 1
fi
