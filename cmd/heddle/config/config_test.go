package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"heddle/cmd/heddle/config"
)

// home gives every test a data_dir that does not depend on who runs it.
func home(environ ...string) []string {
	return append([]string{"HOME=/home/ada", "HEDDLE_DATA_DIR=/data", "PATH=/bin"}, environ...)
}

func TestMistakesInTheFile(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		want       []string // all problems, in order
	}{
		{"unknown key", "listen_adr: :80", []string{"f.yaml:1: listen_adr: unknown key, did you mean listen_addr?"}},
		{"unknown nested key", "log:\n  levle: info", []string{"f.yaml:2: log.levle: unknown key, did you mean log.level?"}},
		{"unknown section", "# x\nderp:\n  embeded: {enabled: true}", []string{"f.yaml:3: derp.embeded: unknown key, did you mean derp.embedded?"}},
		{"wrong case", "Server_URL: https://a.example", []string{"f.yaml:1: Server_URL: unknown key, did you mean server_url?"}},
		{"right name, wrong section", "base_domain: a.example", []string{"f.yaml:1: base_domain: unknown key, did you mean dns.base_domain?"}},
		{"nothing like it", "colour: blue", []string{"f.yaml:1: colour: unknown key: `heddle config example` lists all"}},
		{"from headscale", "noise: {}\nprefixes: {}", []string{
			"f.yaml:1: noise: unknown key: the keys are generated in data_dir, remove it",
			"f.yaml:2: prefixes: unknown key: write addresses.ipv4 and addresses.ipv6"}},
		{"strange key", `"a\nb": 1`, []string{`f.yaml:1: "a\nb": unknown key: ` + "`heddle config example` lists all"}},
		{"merge key", "<<: {log: {}}", []string{"f.yaml:1: <<: unknown key: `heddle config example` lists all"}},
		{"list as key", "? [a]\n: 1", []string{"f.yaml:1: a key must be a plain name"}},
		{"twice", "data_dir: /a\nlog: {}\ndata_dir: /b", []string{"f.yaml:3: data_dir: already set in line 1: remove one"}},
		{"section twice", "log:\n  level: info\nlog:\n  format: json", []string{"f.yaml:3: log: already set in line 1: remove one"}},
		{"not YAML", "log: [", []string{"f.yaml:1: not YAML: did not find expected node content"}},
		{"tab", "log:\n\tlevel: info", []string{"f.yaml:2: not YAML: found character that cannot start any token"}},
		{"a list", "- a", []string{"f.yaml:1: must hold keys with values, like server_url: https://vpn.example.com"}},
		{"two documents", "log: {}\n---\nlog: {}", []string{"f.yaml:2: a second document begins: keep everything in one, without ---"}},
		{"section with a value", "log: debug", []string{"f.yaml:1: log: is a section: put its keys below it, indented"}},
		{"no value", "server_url:", []string{"f.yaml:1: server_url: has no value: write one or remove the line"}},
		{"no value in a list", "derp:\n  files:\n  - a\n  -", []string{"f.yaml:4: derp.files[1]: has no value: write one or remove it"}},
		{"empty", `data_dir: ""`, []string{"f.yaml:1: data_dir: is empty: write a value or remove it"}},
		{"alias", "tls:\n  cert_file: &a /x\n  key_file: *a", []string{
			"f.yaml:2: tls.cert_file: YAML aliases are not supported: write the value out",
			"f.yaml:3: tls.key_file: YAML aliases are not supported: write the value out"}},
		{"value for a list", "derp:\n  files: a", []string{"f.yaml:2: derp.files: must be a list: write it in [ ], or as lines that begin with a dash"}},
		{"list for a value", "data_dir: [a]", []string{"f.yaml:1: data_dir: must be a single value"}},
		{"list for a map", "dns:\n  nameservers:\n    split: [1.1.1.1]", []string{"f.yaml:3: dns.nameservers.split: must be written like {corp.example.com: [10.0.0.53]}"}},
		{"bool", "dns: {magic_dns: yes}", []string{`f.yaml:1: dns.magic_dns: "yes" is neither true nor false`}},
		{"int", "derp: {embedded: {region_id: many}}", []string{`f.yaml:1: derp.embedded.region_id: "many" is not a whole number`}},
		{"duration without a unit", "nodes: {key_expiry: 90}", []string{`f.yaml:1: nodes.key_expiry: "90" is not a duration: write a number and a unit, like 90s, 30m, 12h or 180d`}},
		{"negative duration", "nodes: {online_grace: -1s}", []string{`f.yaml:1: nodes.online_grace: "-1s" is not a duration: write a number and a unit, like 90s, 30m, 12h or 180d`}},
		{"level", "log: {level: loud}", []string{`f.yaml:1: log.level: "loud" is none of debug, info, warn, error`}},
		{"choice", "log: {format: xml}", []string{`f.yaml:1: log.format: "xml" is none of text, json`}},
		{"mode", "unix_socket_mode: 0o999", []string{`f.yaml:1: unix_socket_mode: "0o999" is not an octal mode that lets the owner read and write: write it like 0660`}},
		{"~ alone is nothing in YAML", "data_dir: ~\n", []string{"f.yaml:1: data_dir: has no value: write one or remove the line"}},
		{"listen without a port", "listen_addr: 127.0.0.1", []string{`f.yaml:1: listen_addr: "127.0.0.1" is not HOST:PORT: write it like 127.0.0.1:8080, or :8080 for all interfaces`}},
		{"listen on a service", "listen_addr: :http", []string{`f.yaml:1: listen_addr: the port "http" is not one of 0 to 65535`}},
		{"url scheme", "server_url: vpn.example.com", []string{`f.yaml:1: server_url: "vpn.example.com" is not an http or https URL: write it like https://vpn.example.com`}},
		{"url path", "server_url: https://vpn.example.com/x/", []string{"f.yaml:1: server_url: must end after the host and port: write https://vpn.example.com (clients do not keep a path)"}},
		{"url query", "server_url: https://vpn.example.com?a=b", []string{"f.yaml:1: server_url: must end after the host and port: write https://vpn.example.com (clients do not keep a path)"}},
		{"url fragment", "server_url: https://vpn.example.com#a", []string{"f.yaml:1: server_url: must not hold a #"}},
		{"url port", "server_url: https://vpn.example.com:0", []string{"f.yaml:1: server_url: the port 0 is not one of 1 to 65535"}},
		{"url host", "server_url: https://vpn_1.example.com", []string{`f.yaml:1: server_url: "vpn_1.example.com" is neither an IP address nor a host name`}},
		{"url of a wildcard", "server_url: http://0.0.0.0:8080", []string{"f.yaml:1: server_url: 0.0.0.0 is no address that a client can reach: write the public name of this server"}},
		{"url with a password", "derp: {urls: ['https://u:hunter2@a.example/']}", []string{"f.yaml:1: derp.urls[0]: must not hold a user name or password"}},
		{"broken url with a password", "derp: {urls: ['ftp://u:hunter2@a.example/']}", []string{`f.yaml:1: derp.urls[0]: "…@a.example/" is not an http or https URL: write it like https://vpn.example.com`}},
		{"prefix", "trusted_proxies: [10.0.0.0/33]", []string{`f.yaml:1: trusted_proxies[0]: "10.0.0.0/33" is not a prefix: write it like 100.64.0.0/16`}},
		{"host bits", "trusted_proxies: [10.0.0.1/8]", []string{"f.yaml:1: trusted_proxies[0]: 10.0.0.1/8 has bits set behind the prefix: write 10.0.0.0/8"}},
		{"duplicates", "trusted_proxies:\n- 10.0.0.1\n- 10.0.0.1/32", []string{"f.yaml:3: trusted_proxies[1]: the same as number 1 of the list: remove one"}},
		{"region code", "derp: {embedded: {region_code: a b}}", []string{`f.yaml:1: derp.embedded.region_code: "a b" must be 1 to 63 letters, digits and inner hyphens`}},
		{"region name", `derp: {embedded: {region_name: "a\nb"}}`, []string{`f.yaml:1: derp.embedded.region_name: "a\nb" must be one line of at most 100 bytes`}},
		{"domain", "dns: {base_domain: -a.example}", []string{`f.yaml:1: dns.base_domain: "-a.example" is not a domain name: "-a" must be 1 to 63 letters, digits and inner hyphens`}},
		{"international domain", "dns: {base_domain: grün.example}", []string{`f.yaml:1: dns.base_domain: "grün.example" is not ASCII: write international names as xn--…`}},
		{"split domain", "dns: {nameservers: {split: {a..b: [1.1.1.1], ok.example: [x]}}}", []string{
			`f.yaml:1: dns.nameservers.split: "a..b" is not a domain name: "" must be 1 to 63 letters, digits and inner hyphens`,
			`f.yaml:1: dns.nameservers.split[ok.example][0]: "x" is no nameserver: write an IP address, IP:PORT, or an https URL`}},
		{"nameserver", "dns: {nameservers: {global: ['tls://1.1.1.1', 100.100.100.100, 0.0.0.0, 'https:///x']}}", []string{
			`f.yaml:1: dns.nameservers.global[0]: "tls://1.1.1.1" is no nameserver: write an IP address, IP:PORT, or an https URL`,
			"f.yaml:1: dns.nameservers.global[1]: 100.100.100.100 is the resolver inside the clients, which would ask itself: name another one",
			"f.yaml:1: dns.nameservers.global[2]: 0.0.0.0 is no address of a nameserver",
			`f.yaml:1: dns.nameservers.global[3]: "https:///x" is not an http or https URL: write it like https://vpn.example.com`}},
		{"records", "dns:\n  extra_records:\n  - {name: a.example, type: A}\n  - {nam: b.example, type: MX, value: '1'}\n  - c\n  - {name: '*.d', type: A, value: ''}", []string{
			"f.yaml:3: dns.extra_records[0]: value is missing",
			"f.yaml:4: dns.extra_records[1].nam: unknown key, did you mean name?",
			`f.yaml:4: dns.extra_records[1].type: "MX" is none of A, AAAA`,
			`f.yaml:4: dns.extra_records[1].value: "1" is not an IP address`,
			"f.yaml:4: dns.extra_records[1]: name is missing",
			"f.yaml:5: dns.extra_records[2]: must be written like {name: …, type: …, value: …}",
			`f.yaml:6: dns.extra_records[3].name: "*.d" has a wildcard, which clients do not know: name the hosts one by one`,
			"f.yaml:6: dns.extra_records[3].value: is empty: write a value or remove it"}},
		{"record of an unknown type", "dns: {extra_records: [{name: a, type: MX, value: 10.0.0.1}]}", []string{`f.yaml:1: dns.extra_records[0].type: "MX" is none of A, AAAA`}},
		{"all at once, by line", "log:\n  level: x\n  lever: y\ndata_dir: ''\nlisten_addr: x", []string{
			`f.yaml:2: log.level: "x" is none of debug, info, warn, error`,
			"f.yaml:3: log.lever: unknown key, did you mean log.level?",
			"f.yaml:4: data_dir: is empty: write a value or remove it",
			`f.yaml:5: listen_addr: "x" is not HOST:PORT: write it like 127.0.0.1:8080, or :8080 for all interfaces`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("f.yaml", []byte(tt.yaml), []string{"HOME=/home/ada"})
			wantProblems(t, cfg, err, tt.want)
		})
	}
}

func TestMistakesInVariables(t *testing.T) {
	for _, tt := range []struct {
		name    string
		environ []string
		want    []string
	}{
		{"unknown", []string{"HEDDLE_SEVER_URL=x"}, []string{"HEDDLE_SEVER_URL: unknown variable, did you mean HEDDLE_SERVER_URL?"}},
		{"unknown of the command line", []string{"HEDDLE_APIKEY=hunter2"}, []string{"HEDDLE_APIKEY: unknown variable, did you mean HEDDLE_API_KEY?"}},
		{"like nothing", []string{"HEDDLE_COLOUR=x"}, []string{"HEDDLE_COLOUR: unknown variable: names are HEDDLE_ and the key in capitals with _ for dots; `heddle config example` lists the keys"}},
		{"not Kubernetes", []string{"HEDDLE_DERP_EMBEDDED_PORT=443"}, []string{"HEDDLE_DERP_EMBEDDED_PORT: unknown variable: names are HEDDLE_ and the key in capitals with _ for dots; `heddle config example` lists the keys"}},
		{"a section", []string{"HEDDLE_LOG=debug"}, []string{"HEDDLE_LOG: unknown variable: names are HEDDLE_ and the key in capitals with _ for dots; `heddle config example` lists the keys"}},
		{"no file for what is no secret", []string{"HEDDLE_SERVER_URL_FILE=/x"}, []string{"HEDDLE_SERVER_URL_FILE: unknown variable: names are HEDDLE_ and the key in capitals with _ for dots; `heddle config example` lists the keys"}},
		{"empty", []string{"HEDDLE_SERVER_URL="}, []string{"HEDDLE_SERVER_URL: server_url: is empty: write a value or remove it"}},
		{"value", []string{"HEDDLE_LOG_LEVEL=x"}, []string{`HEDDLE_LOG_LEVEL: log.level: "x" is none of debug, info, warn, error`}},
		{"list", []string{"HEDDLE_TRUSTED_PROXIES=10.0.0.1,x"}, []string{`HEDDLE_TRUSTED_PROXIES: trusted_proxies[1]: "x" is not a prefix: write it like 100.64.0.0/16`}},
		{"broken YAML", []string{"HEDDLE_TRUSTED_PROXIES=[x"}, []string{"HEDDLE_TRUSTED_PROXIES: trusted_proxies: not YAML: did not find expected ',' or ']'"}},
		{"map", []string{"HEDDLE_DNS_NAMESERVERS_SPLIT=x"}, []string{"HEDDLE_DNS_NAMESERVERS_SPLIT: dns.nameservers.split: must be written like {corp.example.com: [10.0.0.53]}"}},
		{"list of maps", []string{"HEDDLE_DNS_EXTRA_RECORDS=x"}, []string{"HEDDLE_DNS_EXTRA_RECORDS: dns.extra_records[0]: must be written like {name: …, type: …, value: …}"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("", nil, home(tt.environ...))
			wantProblems(t, cfg, err, tt.want)
		})
	}
}

func TestWhatDoesNotGoTogether(t *testing.T) {
	const cert, acme = "tls: {cert_file: /c, key_file: /k}\n", "tls: {acme: {email: a@b.example}}\n"
	const byDNS = "server_url: https://a.example\ntls:\n  acme:\n    email: a@b.example\n    dns: "
	for _, tt := range []struct {
		name, yaml string
		want       []string
	}{
		{"certificate without key", "\ntls: {cert_file: /c}\nserver_url: https://a.example", []string{"f.yaml:2: tls.cert_file: needs tls.key_file, the private key of the certificate: set both or none"}},
		{"key without certificate", "tls: {key_file: /c}", []string{"f.yaml:1: tls.key_file: needs tls.cert_file, the certificate of the key: set both or none"}},
		{"TLS without URL", cert, []string{"server_url: must be set, as TLS is on: write https:// and a name of the certificate"}},
		{"TLS with http", cert + "server_url: http://a.example:8080", []string{"f.yaml:2: server_url: is http, but listen_addr speaks TLS because of tls.cert_file: write https://a.example:8080"}},
		{"gRPC without TLS", "grpc_listen_addr: :50443", []string{"f.yaml:1: grpc_listen_addr: needs TLS: set tls.acme.email, or tls.cert_file and tls.key_file, or remove it and use the local socket"}},
		{"port 80 without TLS", "http_listen_addr: :80", []string{"f.yaml:1: http_listen_addr: is for a server with TLS, and listen_addr speaks plain HTTP here: set tls.acme.email, or tls.cert_file and tls.key_file, or remove it"}},
		{"ACME without URL", acme, []string{"server_url: must be set, as TLS is on: write https:// and a name of the certificate"}},
		{"ACME with http", acme + "server_url: http://a.example", []string{"f.yaml:2: server_url: is http, but listen_addr speaks TLS because of tls.acme.email: write https://a.example"}},
		{"ACME for an address", acme + "server_url: https://198.51.100.1", []string{"f.yaml:2: server_url: 198.51.100.1 is not a name that a certificate can be had for: write the public name of this server"}},
		{"no e-mail address", "server_url: https://a.example\ntls: {acme: {email: me}}", []string{`f.yaml:2: tls.acme.email: "me" is not an e-mail address: write it like admin@example.com`}},
		{"proof at port 80 without port 80", "server_url: https://a.example\nhttp_listen_addr: ''\ntls: {acme: {email: a@b.example, challenges: [http-01]}}", []string{"f.yaml:3: tls.acme.challenges: http-01 needs http_listen_addr, where the authority connects to at port 80"}},
		{"proof by DNS and otherwise", "server_url: https://a.example\ntls: {acme: {email: a@b.example, challenges: [http-01, dns-01]}}", []string{"f.yaml:2: tls.acme.challenges: dns-01 stands alone: remove the others, or dns-01"}},
		{"proof by DNS without a server", "server_url: https://a.example\ntls: {acme: {email: a@b.example, challenges: [dns-01]}}", []string{"f.yaml:2: tls.acme.challenges: dns-01 needs tls.acme.dns.server and tls.acme.dns.zone, or another tls.acme.dns.provider"}},
		{"an unknown DNS provider", byDNS + "{provider: gandi}", []string{`f.yaml:5: tls.acme.dns.provider: "gandi" is none of rfc2136, cloudflare, route53`}},
		{"Cloudflare without a token", byDNS + "{provider: cloudflare}", []string{"tls.acme.dns.token: must be set for the provider cloudflare: make an API token with the rights Zone:Read and DNS:Edit at dash.cloudflare.com"}},
		{"Cloudflare's token with more", byDNS + "{provider: cloudflare, token: 'Bearer hunter2'}", []string{"f.yaml:5: tls.acme.dns.token: is no API token: copy it as Cloudflare shows it, without Bearer before it"}},
		{"Cloudflare's token in no file", byDNS + "{provider: cloudflare, token_file: /none}", []string{"f.yaml:5: tls.acme.dns.token_file: cannot read the secret: open /none: no such file or directory"}},
		{"half an access key", byDNS + "{provider: route53, access_key_id: AKIA}", []string{"f.yaml:5: tls.acme.dns.access_key_id: goes with tls.acme.dns.secret_access_key: set both, or none to use the environment or the role of this machine"}},
		{"the other half", byDNS + "{provider: route53, secret_access_key: hunter2}", []string{"tls.acme.dns.access_key_id: goes with tls.acme.dns.secret_access_key: set both, or none to use the environment or the role of this machine"}},
		{"keys of another DNS provider", byDNS + "{provider: route53, token: hunter2, server: 'ns:53'}", []string{
			"f.yaml:5: tls.acme.dns.server: is for the provider rfc2136, and tls.acme.dns.provider is route53: remove it, or change that",
			"f.yaml:5: tls.acme.dns.token: is for the provider cloudflare, and tls.acme.dns.provider is route53: remove it, or change that"}},
		{"a record elsewhere", byDNS + "{provider: route53, zone: a.example, record: b.example}", []string{"f.yaml:5: tls.acme.dns.record: b.example does not lie in tls.acme.dns.zone, a.example"}},
		{"DNS key", "server_url: https://a.example\ntls:\n  acme:\n    email: a@b.example\n    challenges: [dns-01]\n    dns: {server: 'ns:53', zone: a.example, record: b.example, tsig_key: '!'}", []string{
			"f.yaml:6: tls.acme.dns.tsig_key: is not base64: copy the secret as the name server has it",
			"f.yaml:6: tls.acme.dns.record: b.example does not lie in tls.acme.dns.zone, a.example",
			"tls.acme.dns.tsig_key_name: goes with tls.acme.dns.tsig_key: set both or none"}},
		{"hasty", "server_url: https://a.example\ntls: {acme: {email: a@b.example, check_interval: 0s}}", []string{"f.yaml:2: tls.acme.check_interval: must be at least 1s"}},
		{"same port", "listen_addr: :9090", []string{"f.yaml:1: listen_addr: :9090 is taken by metrics_listen_addr (127.0.0.1:9090): choose another port"}},
		{"port 0", "listen_addr: 127.0.0.1:0", []string{"server_url: must be set, as listen_addr leaves the port to the system"}},
		{"long socket", "unix_socket: /" + strings.Repeat("x", 120), []string{"f.yaml:1: unix_socket: /" + strings.Repeat("x", 120) + fmt.Sprintf(" has 121 bytes, the system allows %d: set a shorter path", len(syscall.RawSockaddrUnix{}.Path)-1)}},
		{"families", "derp: {embedded: {ipv4: '::1', ipv6: 10.0.0.1}}", []string{
			"f.yaml:1: derp.embedded.ipv4: ::1 is not an IPv4 address: use derp.embedded.ipv6",
			"f.yaml:1: derp.embedded.ipv6: 10.0.0.1 is not an IPv6 address: use derp.embedded.ipv4"}},
		{"unreachable relay", "derp: {embedded: {ipv4: 0.0.0.0}}", []string{"f.yaml:1: derp.embedded.ipv4: 0.0.0.0 is no address that a client can reach: write the public one"}},
		{"region", "derp: {embedded: {region_id: 0}}", []string{"f.yaml:1: derp.embedded.region_id: must be 1 to 65535; 900 to 999 are free for private regions"}},
		{"port", "derp: {embedded: {derp_port: 0}}", []string{"f.yaml:1: derp.embedded.derp_port: must be 1 to 65535"}},
		{"update interval", "derp: {update_interval: 1s}", []string{"f.yaml:1: derp.update_interval: must be at least 1m, to be kind to the servers"}},
		{"base domain is the server", "server_url: https://a.example\ndns:\n  base_domain: A.example.", []string{"f.yaml:3: dns.base_domain: a.example of server_url lies in a.example, so devices would look it up inside the tailnet and lose the server: choose another domain"}},
		{"base domain holds the server", "server_url: https://vpn.a.example\ndns:\n  base_domain: a.example", []string{"f.yaml:3: dns.base_domain: vpn.a.example of server_url lies in a.example, so devices would look it up inside the tailnet and lose the server: choose another domain"}},
		{"base domain holds the relay", "server_url: https://b.example\ndns: {base_domain: a.example}\nderp: {embedded: {hostname: a.example}}", []string{"f.yaml:2: dns.base_domain: a.example of derp.embedded.hostname lies in a.example, so devices would look it up inside the tailnet and lose the server: choose another domain"}},
		{"default base domain holds the server", "server_url: https://vpn.tailnet.internal", []string{"dns.base_domain: vpn.tailnet.internal of server_url lies in tailnet.internal, so devices would look it up inside the tailnet and lose the server: choose another domain"}},
		{"split on the base domain", "dns: {base_domain: a.example, nameservers: {split: {a.example: [1.1.1.1]}}}", []string{"f.yaml:1: dns.nameservers.split: a.example is dns.base_domain, which devices answer themselves: remove it"}},
		{"search the base domain", "dns: {base_domain: a.example, search_domains: [a.example]}", []string{"f.yaml:1: dns.search_domains: a.example is dns.base_domain, which is searched anyway: remove it"}},
		{"record of the wrong family", "dns: {extra_records: [{name: a.example, type: A, value: '::1'}]}", []string{"f.yaml:1: dns.extra_records: a.example: ::1 does not belong into a record of type A: A is for IPv4, AAAA for IPv6"}},
		{"outside the range", "addresses: {ipv4: 10.0.0.0/8, ipv6: 'fd00::/64'}", []string{
			"f.yaml:1: addresses.ipv4: 10.0.0.0/8 is not a part of 100.64.0.0/10, the range that clients know: choose one in it",
			"f.yaml:1: addresses.ipv6: fd00::/64 is not a part of fd7a:115c:a1e0::/48, the range that clients know: choose one in it"}},
		{"larger than the range", "addresses: {ipv4: 100.0.0.0/8}", []string{"f.yaml:1: addresses.ipv4: 100.0.0.0/8 is not a part of 100.64.0.0/10, the range that clients know: choose one in it"}},
		{"wrong family", "addresses: {ipv4: 'fd7a:115c:a1e0::/64'}", []string{"f.yaml:1: addresses.ipv4: fd7a:115c:a1e0::/64 is not a part of 100.64.0.0/10, the range that clients know: choose one in it"}},
		{"too small", "addresses: {ipv4: 100.64.0.0/31}", []string{"f.yaml:1: addresses.ipv4: 100.64.0.0/31 has no room for devices: choose a larger range"}},
		{"reserved", "addresses: {ipv4: 100.115.92.0/24, ipv6: 'fd7a:115c:a1e0:b1a:1::/80'}", []string{
			"f.yaml:1: addresses.ipv4: 100.115.92.0/24 lies in 100.115.92.0/23, which clients keep for themselves: choose another range in 100.64.0.0/10",
			"f.yaml:1: addresses.ipv6: fd7a:115c:a1e0:b1a:1::/80 lies in fd7a:115c:a1e0:b1a::/64, which clients keep for themselves: choose another range in fd7a:115c:a1e0::/48"}},
		{"audit log forgotten at once", "audit: {retention: 1h}", []string{"f.yaml:1: audit.retention: must be at least 24h, or 0 to keep entries for ever"}},
		{"no room for maps", "netmap: {cache_mb: 1}", []string{"f.yaml:1: netmap.cache_mb: must be 8 to 65536"}},
		{"no time for ephemeral nodes", "nodes: {ephemeral_timeout: 0s}", []string{"f.yaml:1: nodes.ephemeral_timeout: must be at least 1s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("f.yaml", []byte(tt.yaml), home())
			wantProblems(t, cfg, err, tt.want)
		})
	}
}

func wantProblems(t *testing.T, cfg *config.Config, err error, want []string) {
	t.Helper()
	var problems config.Errors
	if cfg != nil || !errors.As(err, &problems) {
		t.Fatalf("got %+v, %v; want nil and Errors", cfg, err)
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		want       []string // beginnings
	}{
		{"defaults", "", nil},
		{"behind a proxy", "server_url: https://a.example\ntrusted_proxies: [127.0.0.1]", nil},
		{"with TLS", "listen_addr: :443\nserver_url: https://a.example\ntls: {cert_file: /c, key_file: /k}", nil},
		{"wildcard without a URL", "listen_addr: :8080", []string{"server_url is not set: clients are told http://127.0.0.1:8080"}},
		{"plain HTTP in public", "listen_addr: :8080\nserver_url: http://a.example:8080", []string{"server_url http://a.example:8080 is plain HTTP"}},
		{"two certificates", "server_url: https://a.example\ntls: {cert_file: /c, key_file: /k, acme: {email: a@b.example}}", []string{"tls.acme has no effect, as tls.cert_file is set"}},
		{"a DNS provider that is not used", "server_url: https://a.example\ntls: {acme: {email: a@b.example, challenges: [http-01], dns: {provider: route53}}}", []string{"tls.acme.dns has no effect, as tls.acme.challenges does not hold dns-01"}},
		{"ACME at another port", "server_url: https://a.example:8443\nlisten_addr: :8443\nhttp_listen_addr: ''\ntls: {acme: {email: a@b.example}}", []string{"server_url has port 8443"}},
		{"https without anything", "server_url: https://a.example", []string{"server_url is https and neither tls.acme.email nor tls.cert_file is set"}},
		{"public metrics", "metrics_listen_addr: :9090", []string{"metrics_listen_addr :9090 is not loopback"}},
		{"everybody is a proxy", "trusted_proxies: [0.0.0.0/0]", []string{"trusted_proxies holds 0.0.0.0/0"}},
		{"open socket", "unix_socket_mode: 0666", []string{"unix_socket_mode 0666 makes every local user"}},
		{"no relay", "derp: {embedded: {enabled: false}}", []string{"there is no relay"}},
		{"multicast domain", "dns: {base_domain: home.local}", []string{"dns.base_domain home.local lies in local"}},
		{"hosted domain", "dns: {base_domain: a.ts.net}", []string{"dns.base_domain a.ts.net belongs to the hosted service"}},
		{"override with nothing", "dns: {override_local_dns: true}", []string{"dns.override_local_dns has no effect"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := config.Parse("f.yaml", []byte(tt.yaml), home())
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range cfg.Warnings {
				if i < len(tt.want) && strings.HasPrefix(w, tt.want[i]) {
					cfg.Warnings[i] = tt.want[i]
				}
			}
			if diff := cmp.Diff(tt.want, cfg.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	got, err := config.Parse("", nil, home())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaults(), got, compare...); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var compare = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b config.Secret) bool { return a == b }),
}

func defaults() *config.Config {
	return &config.Config{
		ServerURL: &url.URL{Scheme: "http", Host: "127.0.0.1:8080"},
		Listen: config.Listen{
			Addr: "127.0.0.1:8080", Metrics: "127.0.0.1:9090",
			Socket: "/data/heddle.sock", SocketMode: 0o660,
		},
		Storage: config.Storage{DataDir: "/data", Backup: config.Backup{Interval: 24 * time.Hour, Keep: 7}},
		DERP: config.DERP{
			Embedded: config.Embedded{
				Enabled: true, RegionID: 999, RegionCode: "heddle", RegionName: "heddle",
				STUNListenAddr: "127.0.0.1:3478", Hostname: "127.0.0.1",
			},
			UpdateInterval: 3 * time.Hour,
		},
		TLS: config.TLS{ACME: config.ACME{CheckInterval: 10 * time.Minute, DNS: config.ACMEDNS{Provider: config.RFC2136, Algorithm: "hmac-sha256"}}},
		DNS: config.DNS{BaseDomain: "tailnet.internal", MagicDNS: true},
		Log: config.Log{Level: slog.LevelInfo, Format: "text"},
		Addresses: config.Addresses{
			IPv4:       netip.MustParsePrefix("100.64.0.0/10"),
			IPv6:       netip.MustParsePrefix("fd7a:115c:a1e0::/48"),
			Allocation: config.Sequential,
		},
		Nodes:  config.Nodes{EphemeralTimeout: 30 * time.Minute, OnlineGrace: 10 * time.Second, KeyExpiry: 180 * 24 * time.Hour},
		Upkeep: config.Upkeep{Netmap: config.Netmap{CacheMB: 64}, Audit: config.Audit{Retention: 365 * 24 * time.Hour}},
		Set:    map[string]string{"data_dir": "HEDDLE_DATA_DIR"},
	}
}

// TestMeaning is about what values mean, one change of the defaults each.
func TestMeaning(t *testing.T) {
	for _, tt := range []struct {
		name, yaml string
		environ    []string
		want       func(*config.Config)
	}{
		{"commented out sections", "log:\nderp:\n  embedded:\n", nil, func(*config.Config) {}},
		{"comments only", "# nothing\n", nil, func(*config.Config) {}},
		{"null document", "---\n", nil, func(*config.Config) {}},
		{"variables of others", "", []string{"HEDDLE_CONFIG=x", "HEDDLE_API_KEY=y", "HEDDLE_BIN=z", "HEDDLE=1", "HEDDLES_X=1", "broken"}, func(*config.Config) {}},
		{"Kubernetes", "", []string{"HEDDLE_SERVICE_HOST=10.0.0.1", "HEDDLE_SERVICE_PORT=80", "HEDDLE_SERVICE_PORT_HTTP=80", "HEDDLE_PORT=tcp://10.0.0.1:80", "HEDDLE_PORT_80_TCP=tcp://10.0.0.1:80",
			"HEDDLE_PORT_80_TCP_PROTO=tcp", "HEDDLE_PORT_80_TCP_ADDR=10.0.0.1", "HEDDLE_STUN_PORT_3478_UDP_PORT=3478", "HEDDLE_STUN_PORT=udp://10.0.0.1:3478"}, func(*config.Config) {}},
		{"port of listen_addr", "listen_addr: '[::1]:0999'", nil, func(c *config.Config) {
			c.Listen.Addr = "[::1]:999"
			c.ServerURL.Host, c.DERP.Embedded.Hostname = "[::1]:999", "::1"
		}},
		{"ACME", "server_url: https://vpn.example.com\ntls: {acme: {email: a@b.example}}", nil, func(c *config.Config) {
			c.ServerURL = &url.URL{Scheme: "https", Host: "vpn.example.com"}
			c.Listen.Addr, c.Listen.HTTP = ":443", ":80"
			c.TLS.ACME.Email, c.TLS.ACME.Challenges = "a@b.example", []config.Challenge{config.HTTP01, config.TLSALPN01}
			c.DERP.Embedded.STUNListenAddr, c.DERP.Embedded.Hostname, c.DERP.Embedded.Port = ":3478", "vpn.example.com", 443
		}},
		{"ACME without port 80", "server_url: https://vpn.example.com\nhttp_listen_addr: ''\nlisten_addr: :8443\ntls: {acme: {email: a@b.example}}", nil, func(c *config.Config) {
			c.ServerURL = &url.URL{Scheme: "https", Host: "vpn.example.com"}
			c.Listen.Addr = ":8443"
			c.TLS.ACME.Email, c.TLS.ACME.Challenges = "a@b.example", []config.Challenge{config.TLSALPN01}
			c.DERP.Embedded.STUNListenAddr, c.DERP.Embedded.Hostname, c.DERP.Embedded.Port = ":3478", "vpn.example.com", 443
		}},
		{"ACME by DNS", "server_url: https://vpn.example.com\ntls: {acme: {email: a@b.example, dns: {provider: route53}}}", nil, func(c *config.Config) {
			c.ServerURL = &url.URL{Scheme: "https", Host: "vpn.example.com"}
			c.Listen.Addr, c.Listen.HTTP = ":443", ":80"
			c.TLS.ACME.Email, c.TLS.ACME.Challenges, c.TLS.ACME.DNS.Provider = "a@b.example", []config.Challenge{config.DNS01}, config.Route53
			c.DERP.Embedded.STUNListenAddr, c.DERP.Embedded.Hostname, c.DERP.Embedded.Port = ":3478", "vpn.example.com", 443
		}},
		{"server_url", "server_url: HTTPS://VPN.Example.com/\ntrusted_proxies: [127.0.0.1, '::ffff:10.0.0.1', 'fd00::/8']", nil, func(c *config.Config) {
			c.ServerURL = &url.URL{Scheme: "https", Host: "vpn.example.com"}
			c.TrustedProxies = prefixes("127.0.0.1/32", "10.0.0.1/32", "fd00::/8")
			c.DERP.Embedded.STUNListenAddr, c.DERP.Embedded.Hostname, c.DERP.Embedded.Port = ":3478", "vpn.example.com", 443
		}},
		{"relay at another place", "derp: {embedded: {hostname: derp.example.com, derp_port: 8443, stun_listen_addr: '', ipv4: '', ipv6: 2001:db8::1}}", nil, func(c *config.Config) {
			e := &c.DERP.Embedded
			e.Hostname, e.Port, e.STUNListenAddr, e.IPv6 = "derp.example.com", 8443, "", netip.MustParseAddr("2001:db8::1")
		}},
		{"off", "metrics_listen_addr: ''\npolicy: {path: ''}\nunix_socket_mode: 0o600", nil, func(c *config.Config) { c.Listen.Metrics, c.Listen.SocketMode = "", fs.FileMode(0o600) }},
		{"variable wins", "log: {level: debug, format: json}", []string{"HEDDLE_LOG_LEVEL=error"}, func(c *config.Config) { c.Log = config.Log{Level: slog.LevelError, Format: "json"} }},
		{"paths", "policy: {path: p.hujson}\nderp: {files: [/etc/x/../a.yaml, b/c.yaml, ~/d.yaml, ./~]}", []string{"HEDDLE_DNS_EXTRA_RECORDS_PATH=r.json"}, func(c *config.Config) {
			c.Policy.Path, c.DNS.ExtraRecordsPath = "conf/p.hujson", "r.json"
			c.DERP.Files = []string{"/etc/a.yaml", "conf/b/c.yaml", "/home/ada/d.yaml", "conf/~"}
		}},
		{"durations", "nodes: {key_expiry: 0, ephemeral_timeout: 1d12h, online_grace: 1m30s}", nil, func(c *config.Config) {
			c.Nodes = config.Nodes{EphemeralTimeout: 36 * time.Hour, OnlineGrace: 90 * time.Second}
		}},
		{"lists in variables", "trusted_proxies: [10.0.0.9]", []string{"HEDDLE_TRUSTED_PROXIES= 10.0.0.1, 10.0.0.2 ,", "HEDDLE_DERP_FILES=", "HEDDLE_DNS_SEARCH_DOMAINS=[A.example., b.example]"}, func(c *config.Config) {
			c.TrustedProxies, c.DERP.Files, c.DNS.SearchDomains = prefixes("10.0.0.1/32", "10.0.0.2/32"), []string{}, []string{"a.example", "b.example"}
		}},
		{"maps in variables", "", []string{`HEDDLE_DNS_NAMESERVERS_SPLIT={"a.example": ["10.0.0.53", "[fd00::1]:5353"]}`, `HEDDLE_DNS_EXTRA_RECORDS=[{"name":"a.b.","type":"A","value":"10.0.0.1"},{"name":"a.b","type":"AAAA","value":"fd00::1"}]`}, func(c *config.Config) {
			c.DNS.Nameservers.Split = map[string][]string{"a.example": {"10.0.0.53", "[fd00::1]:5353"}}
			c.DNS.ExtraRecords = []config.Record{{"a.b", "A", netip.MustParseAddr("10.0.0.1")}, {"a.b", "AAAA", netip.MustParseAddr("fd00::1")}}
		}},
		{"empty map in a variable", "", []string{"HEDDLE_DNS_NAMESERVERS_SPLIT="}, func(c *config.Config) { c.DNS.Nameservers.Split = map[string][]string{} }},
		{"addresses", "addresses: {ipv4: 100.80.0.0/16, ipv6: 'fd7a:115c:a1e0:1::/64', allocation: random}", nil, func(c *config.Config) {
			c.Addresses = config.Addresses{IPv4: netip.MustParsePrefix("100.80.0.0/16"), IPv6: netip.MustParsePrefix("fd7a:115c:a1e0:1::/64"), Allocation: config.Random}
		}},
		{"DoH", "dns: {nameservers: {global: ['https://dns.nextdns.io/abc', '9.9.9.9:53', '::ffff:9.9.9.9']}}", nil, func(c *config.Config) {
			c.DNS.Nameservers.Global = []string{"https://dns.nextdns.io/abc", "9.9.9.9:53", "9.9.9.9"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := config.Parse("conf/f.yaml", []byte(tt.yaml), home(tt.environ...))
			if err != nil {
				t.Fatal(err)
			}
			want := defaults()
			tt.want(want)
			want.Set, want.Warnings = got.Set, got.Warnings // they have tests of their own
			if diff := cmp.Diff(want, got, compare...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, p := range texts {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestSet(t *testing.T) {
	cfg, err := config.Parse("f.yaml", []byte("dns:\n  magic_dns: true\nlog: {level: info}"), home("HEDDLE_LOG_LEVEL=warn", "HEDDLE_DNS_SEARCH_DOMAINS="))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"data_dir":           "HEDDLE_DATA_DIR",
		"dns.magic_dns":      "f.yaml:2",
		"dns.search_domains": "HEDDLE_DNS_SEARCH_DOMAINS",
		"log.level":          "HEDDLE_LOG_LEVEL",
	}
	if diff := cmp.Diff(want, cfg.Set); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	good, large := filepath.Join(dir, "heddle.yaml"), filepath.Join(dir, "large.yaml")
	for path, text := range map[string]string{good: "policy: {path: p}", large: strings.Repeat("# 345678\n", 1<<17)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is a directory",
		large:                      "larger than 1 MiB",
	} {
		if _, err := config.Load(path, home()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, want %q", path, err, want)
		}
	}
	cfg, err := config.Load(good, home())
	if err != nil || cfg.Policy.Path != filepath.Join(dir, "p") {
		t.Errorf("Load = %+v, %v", cfg, err)
	}
	if _, err := config.Load("", home()); err != nil {
		t.Error(err)
	}
}
