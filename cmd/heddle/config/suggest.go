package config

import (
	"slices"
	"strings"

	"heddle/control/tailnet/typo"
)

// foreign are keys that people bring along from headscale, and what to write
// instead.
var foreign = map[string]string{
	"noise":                             "the keys are generated in data_dir, remove it",
	"prefixes":                          "write addresses.ipv4 and addresses.ipv6",
	"ip_prefixes":                       "write addresses.ipv4 and addresses.ipv6",
	"database.type":                     "the database is SQLite in data_dir unless database.url is set, remove it",
	"database.sqlite":                   "the database is SQLite in data_dir, remove it",
	"database.postgres":                 "write database.url: postgres://USER:PASSWORD@HOST/NAME",
	"database.gorm":                     "there is nothing to set, remove it",
	"database.debug":                    "write log.level: debug",
	"derp.server":                       "write derp.embedded",
	"derp.paths":                        "write derp.files",
	"derp.auto_update_enabled":          "write derp.update_interval",
	"derp.update_frequency":             "write derp.update_interval",
	"ephemeral_node_inactivity_timeout": "write nodes.ephemeral_timeout",
	"tls_cert_path":                     "write tls.cert_file",
	"tls_key_path":                      "write tls.key_file",
	"unix_socket_permission":            "write unix_socket_mode",
	"acl_policy_path":                   "write policy.path",

	"oidc.issuer":                          "write " + oneProvider,
	"oidc.client_id":                       "write " + oneProvider,
	"oidc.client_secret":                   "write " + oneProvider,
	"oidc.client_secret_path":              "write client_secret_file in " + oneProvider,
	"oidc.scope":                           "write scopes, without openid, in " + oneProvider,
	"oidc.extra_params":                    "write params in " + oneProvider,
	"oidc.allowed_domains":                 "write it in " + oneProvider,
	"oidc.allowed_users":                   "write it in " + oneProvider,
	"oidc.allowed_groups":                  "write it, and groups_claim: groups, in " + oneProvider,
	"oidc.email_verified_required":         "write allow_unverified_email in " + oneProvider,
	"oidc.expiry":                          "write nodes.key_expiry",
	"oidc.pkce":                            "PKCE is always used, remove it",
	"oidc.only_start_if_oidc_is_available": "the server never waits for a provider, remove it",
	"oidc.use_expiry_from_token":           "nodes.key_expiry decides, remove it",
	"oidc.strip_email_domain":              "users are known by issuer and subject, remove it",
	"oidc.map_legacy_users":                "users are known by issuer and subject, remove it",
}

// oneProvider is where the keys of a provider belong.
const oneProvider = "oidc.providers: [{name: corp, issuer: …, client_id: …, client_secret_file: …}]"

// unknown says what to do about a key path that nobody knows.
func (s *schema) unknown(path string) string {
	if hint, ok := foreign[path]; ok {
		return "unknown key: " + hint
	}
	var names []string
	for _, k := range s.keys {
		names = append(names, k.path)
	}
	if near := typo.Nearest(path, names); near != "" {
		return "unknown key, did you mean " + near + "?"
	}
	// The right name in the wrong section, or without one.
	last := path[strings.LastIndexByte(path, '.')+1:]
	var found []string
	for _, k := range s.keys {
		if k.name() == last {
			found = append(found, k.path)
		}
	}
	if len(found) > 0 && len(found) <= 3 {
		return "unknown key, did you mean " + strings.Join(found, " or ") + "?"
	}
	return "unknown key: `heddle config example` lists all"
}

// unknownVariable says what to do about a variable that nobody knows. The
// common prefix says nothing about how near two names are.
func (s *schema) unknownVariable(name string) string {
	var names []string
	for variable, k := range s.byVariable {
		names = append(names, strings.TrimPrefix(variable, prefix))
		if k.secret() {
			names = append(names, strings.TrimPrefix(variable, prefix)+"_FILE")
		}
	}
	for _, v := range commandVariables {
		names = append(names, strings.TrimPrefix(v.name, prefix))
	}
	slices.Sort(names) // of equally near ones always the same
	if near := typo.Nearest(strings.TrimPrefix(name, prefix), names); near != "" {
		return "unknown variable, did you mean " + prefix + near + "?"
	}
	return "unknown variable: names are HEDDLE_ and the key in capitals with _ for dots; `heddle config example` lists the keys"
}
