package headscale

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"

	"go.yaml.in/yaml/v3"
)

// same are the keys whose values mean the same here.
var same = []struct{ theirs, ours string }{
	{"server_url", "server_url"},
	{"listen_addr", "listen_addr"},
	{"metrics_listen_addr", "metrics_listen_addr"},
	{"trusted_proxies", "trusted_proxies"},
	{"tls_cert_path", "tls.cert_file"},
	{"tls_key_path", "tls.key_file"},
	{"derp.server.region_id", "derp.embedded.region_id"},
	{"derp.server.region_code", "derp.embedded.region_code"},
	{"derp.server.region_name", "derp.embedded.region_name"},
	{"derp.server.stun_listen_addr", "derp.embedded.stun_listen_addr"},
	{"derp.urls", "derp.urls"},
	{"derp.paths", "derp.files"},
	{"derp.update_frequency", "derp.update_interval"},
	{"dns.base_domain", "dns.base_domain"},
	{"dns.magic_dns", "dns.magic_dns"},
	{"dns.nameservers.global", "dns.nameservers.global"},
	{"dns.nameservers.split", "dns.nameservers.split"},
	{"dns.search_domains", "dns.search_domains"},
	{"dns.extra_records", "dns.extra_records"},
	{"dns.extra_records_path", "dns.extra_records_path"},
	{"prefixes.allocation", "addresses.allocation"},
	{"log.format", "log.format"},
}

// needless are keys that nothing is lost by: what they name is found or made by other means, or is as they say by itself.
var needless = []string{
	"database", "noise", "unix_socket", "unix_socket_permission", "policy", "disable_check_updates", "cli", "tuning", "node.routes",
	"derp.server.private_key_path", "derp.server.stun", "oidc.pkce", "oidc.only_start_if_oidc_is_available", "oidc.strip_email_domain",
	"oidc.map_legacy_users", "grpc_allow_insecure", "dns_config", "acl_policy_path",
}

// unlike are keys of which one value is what heddle does, and the others have no counterpart.
var unlike = []struct{ key, ours, otherwise string }{
	{"derp.server.verify_clients", "true", "the embedded relay serves devices of this server only"},
	{"derp.server.automatically_add_embedded_derp_region", "true", "an embedded relay is always in the map"},
	{"derp.auto_update_enabled", "true", "maps of relays are always fetched again"},
	{"randomize_client_port", "false", `set "randomizeClientPort": true in the policy`},
	{"logtail.enabled", "false", "devices are never told to send their logs elsewhere"},
	{"taildrop.enabled", "true", "sending files is always allowed between the devices of a user"},
	{"auto_update.enabled", "false", "devices decide by themselves about updates"},
	{"dns.use_username_in_magic_dns", "false", "names of devices have no user in them"},
	{"oidc.use_expiry_from_token", "false", "the life of a login is nodes.key_expiry"},
}

// A sheet is a configuration that is being written.
type sheet struct{ root *yaml.Node }

// set writes a value. Nil, "" and empty lists and tables are left out.
func (s *sheet) set(path string, v any, why string) {
	switch t := v.(type) {
	case nil:
		return
	case string:
		if t == "" {
			return
		}
	case []string:
		if len(t) == 0 {
			return
		}
	case []any:
		if len(t) == 0 {
			return
		}
	case map[string]any:
		if len(t) == 0 {
			return
		}
	}
	var value yaml.Node
	if err := value.Encode(v); err != nil {
		return // it was YAML before
	}
	at := s.root
	parts := strings.Split(path, ".")
	for _, part := range parts[:len(parts)-1] {
		at = child(at, part)
	}
	key := &yaml.Node{Kind: yaml.ScalarNode, Value: parts[len(parts)-1], HeadComment: why}
	at.Content = append(at.Content, key, &value)
}

func child(at *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(at.Content); i += 2 {
		if at.Content[i].Value == name {
			return at.Content[i+1]
		}
	}
	inner := &yaml.Node{Kind: yaml.MappingNode}
	at.Content = append(at.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, inner)
	return inner
}

// translate writes the configuration, and returns where addresses come from.
func (m *move) translate() tailnet.Ranges {
	ranges := tailnet.Ranges{V4: m.Target.Addresses.IPv4, V6: m.Target.Addresses.IPv6, Random: m.Target.Addresses.Allocation == config.Random}
	s := m.settings
	if s.none() {
		m.note("headscale's configuration is not known: DNS, relays and logins are as heddle's configuration says; give --headscale-config to have it translated")
		return ranges
	}
	out := &sheet{root: &yaml.Node{Kind: yaml.MappingNode}}
	for _, k := range same {
		out.set(k.ours, s.get(k.theirs), "")
	}
	out.set("data_dir", m.Target.DataDir, "")
	m.translateNetwork(out)
	m.translateTLS(out)
	m.translateDNS(out)
	m.translateOIDC(out)
	m.translateLives(out)
	for _, k := range needless {
		s.get(k)
	}
	var lost []string
	for _, k := range unlike {
		if v := s.text(k.key); v != "" && !strings.EqualFold(v, k.ours) {
			lost = append(lost, fmt.Sprintf("%s: %s — %s", k.key, v, k.otherwise))
		}
	}
	for _, key := range s.rest() {
		lost = append(lost, fmt.Sprintf("%s: it has no counterpart", key))
	}
	for _, l := range lost {
		m.note("configuration, %s", l)
	}
	head := "Translated from headscale's " + s.file + ".\nThe policy is in the database: see heddle policy get. To keep it in a file, set policy.path."
	if len(lost) > 0 {
		head += "\n\nWhat is not as it was:\n  " + strings.Join(lost, "\n  ")
	}
	m.write(out, head)
	return ranges
}

// write makes the text, and looks whether heddle takes it.
func (m *move) write(out *sheet, head string) {
	var b strings.Builder
	for line := range strings.Lines(head + "\n") {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	b.WriteString("\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(out.root); err != nil {
		m.note("the configuration cannot be translated: %v", err)
		return
	}
	m.report.Config = b.String()
	if _, err := config.Parse("heddle.yaml", []byte(m.report.Config), nil); err != nil {
		m.note("the translated configuration needs mending: %v", err)
	}
}

// translateNetwork is about addresses and relays.
func (m *move) translateNetwork(out *sheet) {
	s := m.settings
	for _, f := range []struct {
		theirs, ours string
		whole        netip.Prefix
	}{
		{"prefixes.v4", "addresses.ipv4", netip.MustParsePrefix("100.64.0.0/10")},
		{"prefixes.v6", "addresses.ipv6", netip.MustParsePrefix("fd7a:115c:a1e0::/48")},
	} {
		text := s.text(f.theirs)
		p, err := netip.ParsePrefix(text)
		switch {
		case text == "":
			m.note("configuration, %s: it is not set, and here every device has addresses of both kinds", f.theirs)
		case err != nil || !f.whole.Contains(p.Addr()) || p.Bits() < f.whole.Bits():
			m.note("configuration, %s: %s does not lie in %s, all that devices accept: devices keep their addresses, new ones get others", f.theirs, text, f.whole)
		default:
			out.set(f.ours, p.Masked().String(), "")
		}
	}
	out.set("derp.embedded.enabled", s.truth("derp.server.enabled"), "")
	// headscale's example file has addresses that nobody has.
	examples := []string{"1.2.3.4", "198.51.100.1", "2001:db8::1"}
	for _, f := range []struct{ theirs, ours string }{{"derp.server.ipv4", "derp.embedded.ipv4"}, {"derp.server.ipv6", "derp.embedded.ipv6"}} {
		if ip := s.text(f.theirs); !slices.Contains(examples, ip) {
			out.set(f.ours, ip, "")
		}
	}
	level := s.text("log.level")
	if known, ok := map[string]string{"trace": "debug", "fatal": "error", "panic": "error", "disabled": "error", "warning": "warn"}[level]; ok {
		level = known
	}
	out.set("log.level", level, "")
}

// translateTLS is about certificates, and what needs one.
func (m *move) translateTLS(out *sheet) {
	s := m.settings
	secure := s.text("tls_cert_path") != ""
	host, email := s.text("tls_letsencrypt_hostname"), s.text("acme_email")
	challenge, listen, directory := s.text("tls_letsencrypt_challenge_type"), s.text("tls_letsencrypt_listen"), s.text("acme_url")
	if host != "" && !secure {
		s.get("tls_letsencrypt_cache_dir")
		if email == "" {
			m.note("configuration, acme_email: heddle gets a certificate only with one: set tls.acme.email")
		} else {
			secure = true
			out.set("tls.acme.email", email, "heddle gets a certificate of its own: that of headscale is not taken over.")
			if directory != "https://acme-v02.api.letsencrypt.org/directory" {
				out.set("tls.acme.directory", directory, "")
			}
			if challenge != "" {
				out.set("tls.acme.challenges", []string{strings.ToLower(challenge)}, "")
			}
			if port, ok := strings.CutSuffix(listen, ":http"); ok {
				listen = port + ":80"
			}
			out.set("http_listen_addr", listen, "")
		}
	}
	s.get("tls_letsencrypt_cache_dir") // of no use without the rest
	if grpc := s.text("grpc_listen_addr"); secure {
		out.set("grpc_listen_addr", grpc, "")
	} else if grpc != "" && !strings.HasPrefix(grpc, "127.") && !strings.HasPrefix(grpc, "localhost") {
		m.note("configuration, grpc_listen_addr: the remote command line needs a certificate (tls), or a proxy that has one and passes gRPC")
	}
}

func (m *move) translateDNS(out *sheet) {
	s := m.settings
	override := s.text("dns.override_local_dns")
	if len(s.list("dns.nameservers.global")) > 0 { // until 0.25 they did, without a key that said so
		out.set("dns.override_local_dns", !strings.EqualFold(override, "false"), "")
	}
}

func (m *move) translateOIDC(out *sheet) {
	s := m.settings
	issuer := s.text("oidc.issuer")
	if issuer == "" {
		s.get("oidc")
		return
	}
	p := &sheet{root: &yaml.Node{Kind: yaml.MappingNode}}
	p.set("name", "sso", "")
	p.set("label", "single sign-on", "")
	p.set("issuer", issuer, "")
	p.set("client_id", s.text("oidc.client_id"), "")
	p.set("client_secret", s.text("oidc.client_secret"), "")
	p.set("client_secret_file", s.path("oidc.client_secret_path"), "")
	p.set("scopes", slices.DeleteFunc(s.list("oidc.scope"), func(scope string) bool { return scope == "openid" }), "")
	p.set("params", s.table("oidc.extra_params"), "")
	p.set("allowed_domains", s.list("oidc.allowed_domains"), "")
	p.set("allowed_users", s.list("oidc.allowed_users"), "")
	if groups := s.list("oidc.allowed_groups"); len(groups) > 0 {
		p.set("allowed_groups", groups, "")
		p.set("groups_claim", "groups", "")
	}
	if strings.EqualFold(s.text("oidc.email_verified_required"), "false") {
		p.set("allow_unverified_email", true, "")
	}
	out.set("oidc.providers", []*yaml.Node{p.root}, "The redirect URL at the provider stays as it is.\nName in oidc.owners who administers heddle.")
}

// translateLives is about how long devices last.
func (m *move) translateLives(out *sheet) {
	s := m.settings
	old, fresh := s.text("ephemeral_node_inactivity_timeout"), s.text("node.ephemeral.inactivity_timeout")
	out.set("nodes.ephemeral_timeout", cmp.Or(fresh, old, "120s"), "")
	all, people := s.text("node.expiry"), s.text("oidc.expiry")
	switch {
	case all != "" && all != "0":
		out.set("nodes.key_expiry", all, "")
	case s.text("oidc.issuer") != "":
		out.set("nodes.key_expiry", cmp.Or(people, "180d"), "headscale knew this for logins at the identity provider only; here it is for all devices of users.")
	default:
		out.set("nodes.key_expiry", "0", "")
	}
}
