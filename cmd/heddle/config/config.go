// Package config owns the language of heddle's configuration: its keys, their
// defaults, what may be said in the YAML file and in HEDDLE_ variables, and the
// messages for what may not. It refuses to know what the values are used for:
// it opens no socket, no database and none of the files it names (only Check
// looks at those), and imports nothing of heddle.
//
// Loading has two steps. The file and the environment become raw values, each
// with the place it was written at; raw values become a [Config] of real types,
// in which every default is filled in and everything was checked. All mistakes
// are reported together.
package config

import (
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"time"
)

// Config is the validated configuration. Load is the only way to make one; the
// caller owns the result. The comments of the fields that carry a `key` tag are
// the users' reference: the example file and docs/config.md are generated from
// them. The tags say:
//
//	key      name in the file; ",inline" puts the keys of a group into its parent
//	format   what a string must be (see formats)
//	default  shown to users instead of the value, where that depends on others
//	example  shown in the example file where the default is empty or depends
//	reload   what a change takes: "live" if the server takes it over while it runs,
//	         "restart" if it does not; ",fixes" if the key matters as soon as it is
//	         set, even to its default
type Config struct {
	// The URL at which clients reach this server, as they are told with
	// `tailscale up --login-server`. Scheme http or https, host, perhaps a port;
	// no path. Must be set when TLS is on.
	ServerURL *url.URL `key:"server_url" reload:"restart" format:"origin" default:"http:// and listen_addr, with 127.0.0.1 for a wildcard" example:"https://vpn.example.com"`

	Listen Listen `key:",inline"`

	// The reverse proxies whose X-Forwarded-For and X-Forwarded-Proto headers
	// count, as addresses or prefixes. Headers from anybody else are ignored.
	TrustedProxies []netip.Prefix `key:"trusted_proxies" reload:"live" example:"[127.0.0.1/32, 10.0.0.0/8]"`

	Storage `key:",inline"`

	// The certificate of the public listener. Without one heddle speaks plain
	// HTTP, for loopback or for a reverse proxy that terminates TLS.
	TLS TLS `key:"tls"`

	// Relays, which carry the (encrypted) traffic of devices that cannot reach
	// each other directly.
	DERP DERP `key:"derp"`

	// What the devices are told about DNS. A key that is set here is fixed here;
	// the others are changed with `heddle dns`.
	DNS DNS `key:"dns"`

	// Where the policy comes from.
	Policy Policy `key:"policy"`

	// The server's log, written to standard error.
	Log Log `key:"log"`

	// The addresses that devices get.
	Addresses Addresses `key:"addresses"`

	// The lifetimes of devices.
	Nodes Nodes `key:"nodes"`

	Upkeep `key:",inline"`

	// How people log in, to add devices by themselves. docs/oidc.md tells how to set providers up.
	OIDC OIDC `key:"oidc"`

	// Set tells for each key that was set where that was: "FILE:LINE" or the
	// name of the variable. A key that is absent has its default.
	Set map[string]string

	// Warnings are for the log at start and for `heddle config check`: things
	// that are allowed and yet probably not meant. Nil when there are none.
	Warnings []string
}

// Storage says where the server keeps what it must not lose.
type Storage struct {
	// The directory for the database and the generated keys. Created with mode
	// 0700 if it does not exist.
	DataDir string `key:"data_dir" reload:"restart" format:"path" default:"/var/lib/heddle for root, otherwise $XDG_DATA_HOME/heddle or ~/.local/share/heddle" example:"/var/lib/heddle"`

	// Where users, devices, keys and the audit log are kept.
	Database Database `key:"database"`

	// Copies of the database and the keys, made while the server runs.
	Backup Backup `key:"backup"`
}

// Database says which database the server uses.
type Database struct {
	// A PostgreSQL database, version 14 or newer. Without it a SQLite file in
	// data_dir serves, which suffices for most. `heddle db migrate` moves from one to the
	// other. The password may also stand in PGPASSWORD or in ~/.pgpass.
	URL Secret `key:"url" reload:"restart" example:"postgres://heddle:password@db.example.com/heddle"`
}

// Backup is the configuration of scheduled backups; Dir is "" when there are none.
type Backup struct {
	// Where backups go. Best a file system of another machine. "" makes none.
	// `heddle backup` makes one at any time.
	Dir string `key:"dir" reload:"restart" format:"path,off" example:"/var/backups/heddle"`

	// How often one is made. At least 1m.
	Interval time.Duration `key:"interval" reload:"restart"`

	// How many are kept; the oldest of more are removed.
	Keep int `key:"keep" reload:"restart"`

	// For whom backups are encrypted: public keys of age, or of SSH. Without
	// any they hold the server's keys in the clear.
	Recipients []string `key:"recipients" reload:"restart" format:"line" example:"[age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]"`
}

// Listen says where the server listens. Addresses are HOST:PORT as net.Listen
// takes them; HOST may be empty (every interface).
type Listen struct {
	// The public listener: clients, login pages, the relay. In a container it must
	// not be loopback: write ":8080".
	Addr string `key:"listen_addr" reload:"restart" format:"listen" default:"127.0.0.1:8080, or :443 with tls.acme.email"`

	// A listener for plain HTTP beside that of TLS. It sends people to server_url,
	// answers ACME challenges, and serves the encrypted control protocol, which
	// clients try on port 80 first. "" turns it off.
	HTTP string `key:"http_listen_addr" reload:"restart" format:"listen,off" default:"none, or :80 with tls.acme.email" example:":80"`

	// The private listener for operators: numbers for Prometheus
	// (/metrics) and profiles
	// (/debug/pprof/). It has no authentication: keep it on loopback or behind a
	// firewall. "" turns it off.
	Metrics string `key:"metrics_listen_addr" reload:"restart" format:"listen,off"`

	// A listener of its own for the remote command line (gRPC over TLS, needs
	// a certificate). "" serves it on listen_addr when TLS is on, and not at all
	// otherwise.
	GRPC string `key:"grpc_listen_addr" reload:"restart" format:"listen,off" example:"0.0.0.0:50443"`

	// The socket of the local command line. Whoever can write to it is an
	// administrator. For a group to use it, it must not lie in data_dir, which is
	// open to its owner only.
	Socket string `key:"unix_socket" reload:"restart" format:"path" default:"heddle.sock in data_dir" example:"/run/heddle/heddle.sock"`

	// The permissions of that socket, octal.
	SocketMode fs.FileMode `key:"unix_socket_mode" reload:"restart"`
}

// TLS says where the certificate comes from. CertFile and KeyFile are both set
// or both empty.
type TLS struct {
	// The certificate chain, PEM. Read again when it changes.
	CertFile string `key:"cert_file" reload:"live" format:"path,off" example:"/etc/heddle/tls/fullchain.pem"`

	// The private key of the certificate, PEM.
	KeyFile string `key:"key_file" reload:"live" format:"path,off" example:"/etc/heddle/tls/privkey.pem"`

	// Certificates that heddle gets and renews by itself. Unless cert_file is set, an
	// e-mail address here is all it takes.
	ACME ACME `key:"acme"`
}

// On reports whether the public listener speaks TLS.
func (t TLS) On() bool { return t.CertFile != "" || t.ACME.Email != "" }

// Automatic reports whether the certificate comes by ACME.
func (t TLS) Automatic() bool { return t.CertFile == "" && t.ACME.Email != "" }

// Challenge is a way to prove to a certificate authority that a name is ours.
type Challenge string

const (
	HTTP01    Challenge = "http-01"
	TLSALPN01 Challenge = "tls-alpn-01"
	DNS01     Challenge = "dns-01"
)

// ACME is the account at a certificate authority. Directory nil means Let's Encrypt.
type ACME struct {
	// The e-mail address of the account, where the authority writes to if something
	// is wrong. Setting it means to agree to the authority's terms.
	Email string `key:"email" reload:"restart" format:"email,off" example:"admin@example.com"`

	// The directory URL of the authority.
	Directory *url.URL `key:"directory" reload:"restart" default:"that of Let's Encrypt" example:"https://ca.corp.example.com/acme/directory"`

	// The root certificates, PEM, that this URL is trusted by, if not those of
	// the system.
	CAFile string `key:"ca_file" reload:"restart" format:"path,off" example:"/etc/heddle/tls/corp-root.pem"`

	// The ways of proof that may be used: http-01 (the authority connects to port 80),
	// tls-alpn-01 (to port 443), or dns-01 alone (heddle writes into DNS).
	Challenges []Challenge `key:"challenges" reload:"restart" format:"http-01|tls-alpn-01|dns-01" default:"[http-01, tls-alpn-01], or [dns-01] if dns.provider is set" example:"[dns-01]"`

	// How often certificates are looked at. One is renewed when a third of its
	// life is left. At least 1s.
	CheckInterval time.Duration `key:"check_interval" reload:"restart"`

	// Where the records of dns-01 are written.
	DNS ACMEDNS `key:"dns"`
}

// DNSProvider is a kind of place that keeps zones.
type DNSProvider string

const (
	RFC2136    DNSProvider = "rfc2136"
	Cloudflare DNSProvider = "cloudflare"
	Route53    DNSProvider = "route53"
)

// ACMEDNS is a zone, and the right to write there. Zone is "" when the provider finds it by itself.
type ACMEDNS struct {
	// Who keeps the zone: rfc2136 (a name server of your own that takes dynamic updates), cloudflare or route53.
	Provider DNSProvider `key:"provider" reload:"restart" format:"rfc2136|cloudflare|route53"`

	// The zone. cloudflare and route53 find it by themselves, if the key may list zones.
	Zone string `key:"zone" reload:"restart" format:"domain,off" example:"example.com"`

	// The name of the record, if _acme-challenge.HOST is a CNAME to another one.
	Record string `key:"record" reload:"restart" format:"domain,off" default:"_acme-challenge and the host of server_url" example:"vpn.acme.example.com"`

	// cloudflare: an API token with the rights Zone:Read and DNS:Edit for the zone.
	Token Secret `key:"token" reload:"restart" example:"TOKEN"`

	// route53: the ID of an access key. Without one Amazon's usual places are looked at: the environment,
	// ~/.aws, the role of the machine or container.
	AccessKeyID string `key:"access_key_id" reload:"restart" format:"line,off" example:"AKIAIOSFODNN7EXAMPLE"`

	// route53: the secret access key that goes with it.
	SecretAccessKey Secret `key:"secret_access_key" reload:"restart" example:"SECRET"`

	// rfc2136: the primary name server.
	Server string `key:"server" reload:"restart" format:"listen,off" example:"ns1.example.com:53"`

	// rfc2136: the name of the TSIG key that signs updates.
	KeyName string `key:"tsig_key_name" reload:"restart" format:"domain,off" example:"heddle"`

	// rfc2136: the TSIG key, base64.
	Key Secret `key:"tsig_key" reload:"restart" example:"bm90IGEgcmVhbCBrZXk="`

	// rfc2136: how it signs: hmac-sha256, hmac-sha384 or hmac-sha512.
	Algorithm string `key:"tsig_algorithm" reload:"restart" format:"hmac-sha256|hmac-sha384|hmac-sha512"`
}

// DERP is the configuration of the relays.
type DERP struct {
	// The relay and STUN server inside heddle.
	Embedded Embedded `key:"embedded"`

	// Files with further regions, YAML or JSON in the format of a DERP map, read
	// again when they change. Of equal region IDs the embedded one wins over
	// files, files over URLs, and later ones over earlier ones.
	Files []string `key:"files" reload:"live" format:"path" example:"[/etc/heddle/derp.yaml]"`

	// URLs of DERP maps, JSON. An unreachable one never delays the start.
	URLs []*url.URL `key:"urls" reload:"live" example:"[https://controlplane.tailscale.com/derpmap/default]"`

	// How often the URLs are fetched again. At least 1m.
	UpdateInterval time.Duration `key:"update_interval" reload:"live"`
}

// Embedded is the relay inside heddle. IPv4 and IPv6 are the zero Addr when
// clients are to find them by the host name. Port is 0 when clients reach the
// server by plain HTTP and no port was set: clients always reach a relay by
// TLS, so it then needs a listener of its own, at any free port.
type Embedded struct {
	// Whether heddle relays and answers STUN itself.
	Enabled bool `key:"enabled" reload:"restart"`

	// The public IPv4 address of this server, for clients without working DNS.
	IPv4 netip.Addr `key:"ipv4" reload:"restart" example:"198.51.100.1"`

	// The public IPv6 address of this server.
	IPv6 netip.Addr `key:"ipv6" reload:"restart" example:"2001:db8::1"`

	// The number of the region. 900 to 999 are free for private regions.
	RegionID int `key:"region_id" reload:"restart"`

	// The short name of the region, for `tailscale netcheck`.
	RegionCode string `key:"region_code" reload:"restart" format:"label"`

	// The name of the region for people.
	RegionName string `key:"region_name" reload:"restart" format:"text"`

	// Where STUN listens (UDP). Reached by clients directly, never through a
	// proxy. "" turns STUN off: clients then do not learn their public
	// addresses from this server.
	STUNListenAddr string `key:"stun_listen_addr" reload:"restart" format:"listen,off" default:":3478, or 127.0.0.1:3478 when server_url is a loopback address" example:"0.0.0.0:3478"`

	// The host name of the relay, if it is not that of server_url.
	Hostname string `key:"hostname" reload:"restart" format:"host" default:"the host of server_url" example:"derp.example.com"`

	// The TLS port at which clients reach the relay. With a plain-HTTP server_url
	// the relay listens there itself, with its own certificate.
	Port int `key:"derp_port" reload:"restart" default:"the port of an https server_url, otherwise any free one" example:"443"`
}

// DNS is what devices are told about names. Config.Set tells which of these
// keys the administrator fixed.
type DNS struct {
	// The domain of the devices: laptop becomes laptop.BASE_DOMAIN. The host of
	// server_url must not lie in it.
	BaseDomain string `key:"base_domain" reload:"restart" format:"domain"`

	// Whether devices resolve each other's names.
	MagicDNS bool `key:"magic_dns" reload:"live,fixes"`

	// Whether the global nameservers replace those of the device's own network.
	OverrideLocalDNS bool `key:"override_local_dns" reload:"live,fixes"`

	// Who answers for which names.
	Nameservers Nameservers `key:"nameservers"`

	// Domains that devices append to short names, after base_domain.
	SearchDomains []string `key:"search_domains" reload:"live,fixes" format:"domain" example:"[corp.example.com]"`

	// Additional names, A or AAAA, beside those of the command line. No
	// wildcards: clients do not know them.
	ExtraRecords []Record `key:"extra_records" reload:"live" example:"[{name: grafana.tailnet.internal, type: A, value: 100.64.0.3}]"`

	// A JSON file with more of them ([{"name": …, "type": …, "value": …}]), read
	// again when it changes.
	ExtraRecordsPath string `key:"extra_records_path" reload:"live" format:"path,off" example:"/etc/heddle/records.json"`
}

// Nameservers are resolvers: an IP address, IP:PORT, or the https URL of a
// DNS-over-HTTPS resolver, as stock clients take them.
type Nameservers struct {
	// Resolvers for everything: an IP address, IP:PORT, or the https URL of a
	// DNS-over-HTTPS service that clients know.
	Global []string `key:"global" reload:"live,fixes" format:"nameserver" example:"[9.9.9.9, 149.112.112.112]"`

	// Resolvers for single domains and what lies below them. An empty list means
	// that only extra records answer there.
	Split map[string][]string `key:"split" reload:"live,fixes" format:"nameserver" example:"{corp.example.com: [10.0.0.53]}"`
}

// Record is one additional name. Name is lower-case, without a trailing dot.
type Record struct {
	// The name.
	Name string `key:"name" format:"domain"`

	// A or AAAA.
	Type string `key:"type" format:"A|AAAA"`

	// The address.
	Value netip.Addr `key:"value"`
}

// Policy says where the policy comes from.
type Policy struct {
	// The policy file (HuJSON). When set, the file is the policy, and `heddle
	// policy set` is refused; "" keeps the policy in the database.
	Path string `key:"path" reload:"live" format:"path,off" example:"/etc/heddle/policy.hujson"`
}

// Log is the configuration of the log.
type Log struct {
	// debug, info, warn or error.
	Level slog.Level `key:"level" reload:"live"`

	// text or json.
	Format string `key:"format" reload:"restart" format:"text|json"`
}

// Allocation is a way of choosing the next address.
type Allocation string

const (
	Sequential Allocation = "sequential"
	Random     Allocation = "random"
)

// Addresses are the ranges that devices get their addresses from; both are
// valid and masked.
type Addresses struct {
	// A part of 100.64.0.0/10.
	IPv4 netip.Prefix `key:"ipv4" reload:"restart"`

	// A part of fd7a:115c:a1e0::/48.
	IPv6 netip.Prefix `key:"ipv6" reload:"restart"`

	// sequential (the lowest free address) or random.
	Allocation Allocation `key:"allocation" reload:"restart" format:"sequential|random"`
}

// Nodes are the lifetimes of devices.
type Nodes struct {
	// How long after its last connection an ephemeral device is removed.
	EphemeralTimeout time.Duration `key:"ephemeral_timeout" reload:"restart"`

	// How long a device may be away before the others see it offline. Routes do
	// not wait for this.
	OnlineGrace time.Duration `key:"online_grace" reload:"restart"`

	// After which time users' devices must log in again. 0 means never. Tagged
	// devices never expire.
	KeyExpiry time.Duration `key:"key_expiry" reload:"restart"`
}

// OIDC is how people log in.
type OIDC struct {
	// Who becomes an owner of the network by logging in, by e-mail address. Unless somebody is
	// named here, it is the first who logs in.
	Owners []string `key:"owners" reload:"live" format:"email" example:"[admin@example.com]"`

	// The OpenID Connect providers. The login page offers them in this order.
	Providers []Provider `key:"providers" reload:"live" example:"[{name: google, label: Google, issuer: https://accounts.google.com, client_id: ID, client_secret: SECRET, allowed_domains: [example.com]}]"`
}

// Provider is an identity provider, and who may log in there: a person must satisfy every list that is not empty.
type Provider struct {
	// What it is called in URLs and in the audit log: small letters, digits, hyphens.
	Name string `key:"name" format:"slug"`

	// Its name for people, on the button of the login page.
	Label string `key:"label" format:"text" default:"name"`

	// Its issuer URL, exactly as it writes that itself.
	Issuer string `key:"issuer" format:"issuer"`

	// By what it knows heddle.
	ClientID string `key:"client_id" format:"line"`

	// The secret that goes with it.
	ClientSecret Secret `key:"client_secret" default:"none: a public client"`

	// What heddle asks for beside openid. Groups often need a scope of their own.
	Scopes []string `key:"scopes" format:"line" default:"[profile, email]"`

	// Further parameters of the URL that browsers are sent to, such as {hd: example.com}.
	Params map[string]string `key:"params" format:"line" default:"none" example:"{hd: example.com}"`

	// The domains of e-mail addresses that may log in.
	AllowedDomains []string `key:"allowed_domains" format:"domain" default:"any"`

	// The e-mail addresses that may log in.
	AllowedUsers []string `key:"allowed_users" format:"email" default:"any"`

	// The groups whose members may log in, as groups_claim has them; one of them suffices.
	AllowedGroups []string `key:"allowed_groups" format:"line" default:"any"`

	// The claim with a person's groups, which policies know as group:NAME: a name, also a URL, or a
	// path with dots such as realm_access.roles. It holds a list, one name, or an object whose keys are the names.
	GroupsClaim string `key:"groups_claim" format:"line" default:"none"`

	// The claim with a person's role: admin, network-admin, it-admin, billing-admin, auditor or member, or a
	// list of which the mightiest counts. It then decides at each login: a person without the claim is a member.
	// Owners stay owners.
	RoleClaim string `key:"role_claim" format:"line" default:"none"`

	// Whether e-mail addresses count that the provider does not call verified. Only where people cannot choose
	// theirs.
	AllowUnverifiedEmail bool `key:"allow_unverified_email" default:"false"`
}

// Upkeep is what the server keeps and tells beside its work.
type Upkeep struct {
	// What devices are told about each other.
	Netmap Netmap `key:"netmap"`

	// The record of what was changed, by whom and why.
	Audit Audit `key:"audit"`

	// The receivers of events, which `heddle webhooks` manages.
	Webhooks Webhooks `key:"webhooks"`
}

// Audit is about the audit log.
type Audit struct {
	// How long entries are kept, at least 24h. 0 means for ever. Events that a webhook's
	// receiver did not take within that time are lost.
	Retention time.Duration `key:"retention" reload:"live"`
}

// Webhooks is about receivers of events.
type Webhooks struct {
	// Networks that receivers may be in although they are not public: private ranges,
	// loopback. Whoever may make webhooks can have the server send requests there.
	AllowedNetworks []netip.Prefix `key:"allowed_networks" reload:"restart" example:"[10.1.2.0/24, 127.0.0.1/32]"`
}

// Netmap is about the maps that devices get.
type Netmap struct {
	// How many megabytes of encoded parts of maps are kept to be shared between
	// devices, 8 to 65536. The default suffices for 10000 devices that mostly
	// see the same; many groups that see different devices need more. Too little costs
	// processor time, nothing else.
	CacheMB int `key:"cache_mb" reload:"restart"`
}
