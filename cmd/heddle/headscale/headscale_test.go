package headscale_test

import (
	"database/sql"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/config"
	"heddle/cmd/heddle/headscale"
	"heddle/control/tailnet"
	"heddle/db"
	"heddle/db/pgserver"

	_ "github.com/glebarez/go-sqlite"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"tailscale.com/types/key"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// old is a headscale that has stopped.
type old struct {
	dir    string
	config string
	noise  string // text of the key
}

// newOld makes the files of a headscale whose database is a fixture, changed by more statements.
func newOld(t *testing.T, fixture string, more ...string) *old {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("../../../db/headscale/testdata", fixture+".sql"))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := sql.Open("sqlite", filepath.Join(dir, "db.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, s := range append([]string{string(text)}, more...) {
		if _, err := pool.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	noise, err := key.NewMachine().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	derp, err := key.NewMachine().MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	o := &old{dir: dir, config: filepath.Join(dir, "config.yaml"), noise: string(noise)}
	o.write(t, "noise_private.key", string(noise))
	o.write(t, "derp_server_private.key", string(derp))
	o.write(t, "config.yaml", settings)
	return o
}

func (o *old) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(o.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// state tells all files of a headscale.
func (o *old) state(t *testing.T) string {
	t.Helper()
	files, err := os.ReadDir(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(o.dir, f.Name()))
		info, err2 := f.Info()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		out = append(out, fmt.Sprint(f.Name(), info.ModTime(), len(text)))
	}
	return strings.Join(out, "\n")
}

// settings name paths of a machine that this is not.
const settings = `
server_url: https://vpn.example.com
listen_addr: 0.0.0.0:443
metrics_listen_addr: 127.0.0.1:9090
grpc_listen_addr: 0.0.0.0:50443
noise:
  private_key_path: /var/lib/headscale/noise_private.key
prefixes:
  v4: 100.64.0.0/16
  v6: fd7a:115c:a1e0::/64
  allocation: random
derp:
  server:
    enabled: true
    region_id: 901
    region_code: fra
    region_name: Frankfurt
    stun_listen_addr: 0.0.0.0:3478
    private_key_path: /var/lib/headscale/derp_server_private.key
    ipv4: 198.51.100.1
    verify_clients: false
  urls: [https://controlplane.tailscale.com/derpmap/default]
  update_frequency: 3h
ephemeral_node_inactivity_timeout: 30m
database:
  type: sqlite
  sqlite: {path: /var/lib/headscale/db.sqlite}
tls_letsencrypt_hostname: vpn.example.com
tls_letsencrypt_challenge_type: HTTP-01
tls_letsencrypt_listen: ":http"
acme_url: https://acme-v02.api.letsencrypt.org/directory
acme_email: admin@example.com
log: {level: trace, format: json}
policy: {mode: database}
dns:
  magic_dns: true
  base_domain: tail.example.net
  nameservers:
    global: [9.9.9.9, "https://dns.nextdns.io/abc123"]
    split: {corp.example.com: [10.0.0.53]}
  search_domains: [corp.example.com]
  extra_records: [{name: grafana.tail.example.net, type: A, value: 100.64.0.3}]
unix_socket: /var/run/headscale/headscale.sock
oidc:
  issuer: https://id.example.com/realms/x/
  client_id: headscale
  client_secret: hunter2hunter2
  scope: [openid, profile, email]
  allowed_groups: [/vpn]
  expiry: 90d
  pkce: {enabled: true}
randomize_client_port: true
logtail: {enabled: false}
warp_drive: {factor: 9}
`

func target(t *testing.T, more ...string) *config.Config {
	t.Helper()
	text := strings.Join(append(more, "data_dir: "+filepath.Join(t.TempDir(), "data")), "\n")
	cfg, err := config.Parse("f.yaml", []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func load(t *testing.T, o db.Options) (*db.DB, tailnet.Image) {
	t.Helper()
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	img, err := d.Load(t.Context(), tailnet.Default)
	if err != nil {
		t.Fatal(err)
	}
	return d, img
}

func wantNotes(t *testing.T, r *headscale.Report, words ...string) {
	t.Helper()
	for _, w := range words {
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, w) }) {
			t.Errorf("no note says %q:\n%s", w, strings.Join(r.Notes, "\n"))
		}
	}
}

// TestReleases imports each generation, twice, and starts a server on it.
func TestReleases(t *testing.T) {
	for _, release := range []string{"0.23", "0.24", "0.26", "0.28", "0.30"} {
		t.Run(release, func(t *testing.T) {
			o, cfg := newOld(t, release), target(t)
			before := o.state(t)
			opts := headscale.Options{Source: o.config, Target: cfg, Now: now}
			dry := opts
			dry.DryRun = true
			planned, err := headscale.Import(t.Context(), dry)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(cfg.DataDir); err == nil {
				t.Error("a dry run made the data directory")
			}
			r, err := headscale.Import(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(planned.Notes, r.Notes); diff != "" || planned.Config != r.Config || r.Users != 2 || r.Nodes != 5 || r.AuthKeys != 3 || !r.Policy {
				t.Errorf("%+v %s", r, diff)
			}
			wantNotes(t, r, "2 auth keys that are used up", "1 API keys", "verify_clients", "randomize_client_port", "warp_drive.factor: it has no counterpart")
			again, err := headscale.Import(t.Context(), opts)
			if err != nil || !again.Already {
				t.Errorf("a second import: %+v, %v", again, err)
			}
			if after := o.state(t); after != before {
				t.Errorf("headscale's files changed:\n%s\n%s", before, after)
			}
			checkFiles(t, o, cfg, r)
			store, img := load(t, db.Options{Path: filepath.Join(cfg.DataDir, "heddle.db")})
			checkImage(t, img, release)
			state, err := tailnet.Open(t.Context(), store, tailnet.Options{})
			if err != nil || state.Snapshot().NumNodes() != 5 || state.Snapshot().Policy().Err != nil {
				t.Errorf("the server does not start: %v", err)
			}
			audit, _, err := store.Audit(t.Context(), tailnet.Default, tailnet.AuditQuery{})
			if err != nil || !slices.ContainsFunc(audit, func(a tailnet.AuditRecord) bool {
				return a.Action == "tailnet.import" && strings.HasPrefix(a.Target, "headscale 0.")
			}) {
				t.Errorf("%+v, %v", audit, err)
			}
		})
	}
}

func checkFiles(t *testing.T, o *old, cfg *config.Config, r *headscale.Report) {
	t.Helper()
	noise, err := os.ReadFile(filepath.Join(cfg.DataDir, "noise.key"))
	if err != nil || strings.TrimSpace(string(noise)) != o.noise {
		t.Errorf("noise key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "derp.key")); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(r.Saved)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("configuration: %v, %v", info, err)
	}
	got, err := config.Load(r.Saved, nil)
	if err != nil {
		t.Fatalf("the configuration is not valid: %v\n%s", err, r.Config)
	}
	p := got.OIDC.Providers[0]
	if got.ServerURL.String() != "https://vpn.example.com" || got.DataDir != cfg.DataDir || got.Addresses.IPv4 != netip.MustParsePrefix("100.64.0.0/16") ||
		got.Addresses.Allocation != config.Random || got.DERP.Embedded.RegionID != 901 || got.DERP.Embedded.IPv4.IsValid() || got.Nodes.KeyExpiry != 90*24*time.Hour ||
		got.Nodes.EphemeralTimeout != 30*time.Minute || !got.TLS.Automatic() || got.Listen.HTTP != ":80" || got.Listen.GRPC != "0.0.0.0:50443" ||
		got.DNS.BaseDomain != "tail.example.net" || !got.DNS.OverrideLocalDNS || len(got.DNS.Nameservers.Global) != 2 || len(got.DNS.Nameservers.Split["corp.example.com"]) != 1 ||
		len(got.DNS.ExtraRecords) != 1 || len(got.DERP.URLs) != 1 || p.Issuer != "https://id.example.com/realms/x/" || p.ClientSecret.Reveal() != "hunter2hunter2" || p.GroupsClaim != "groups" {
		t.Errorf("%+v\n%s", got, r.Config)
	}
}

// checkImage looks at what became of the fixture.
func checkImage(t *testing.T, img tailnet.Image, release string) {
	t.Helper()
	var nodes []string
	for _, n := range img.Nodes {
		nodes = append(nodes, fmt.Sprintf("%d %s %s owner %d %v %s %v %v %v %s %d %v", n.ID, n.StableID, n.Name, n.Owner, n.Tags, n.Addrs.V4, n.Approved,
			n.Ephemeral, n.Fixed, n.Origin.Method, n.Report.HomeDERP, n.Expiry.IsZero()))
	}
	want := []string{
		"1 1 laptop owner 1 [] 100.64.0.1 [] false false authkey 999 true",
		"2 2 router owner 0 [tag:router] 100.64.0.2 [0.0.0.0/0 10.0.0.0/24 ::/0] false true cli 0 true",
		"3 3 phone-abcd1234 owner 2 [] 100.64.0.3 [] false true oidc 0 false",
		"5 5 runner owner 0 [tag:ci] 100.64.0.5 [] true false authkey 0 true",
		"6 6 asker owner 0 [tag:router] 100.64.0.6 [] false false cli 0 true",
	}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Error(diff)
	}
	bob := img.Users[1]
	if release == "0.23" {
		if len(bob.Identities) != 0 {
			t.Errorf("%+v", bob)
		}
	} else if diff := cmp.Diff([]tailnet.Identity{{Issuer: "https://id.example.com/realms/x/", Subject: "bob-subject"}}, bob.Identities); diff != "" || bob.Email != "bob@example.com" {
		t.Errorf("%+v %s", bob, diff)
	}
	if img.LastID != (tailnet.LastIDs{Node: 6, User: 3, AuthKey: 5}) || !strings.Contains(img.Policy.Source, "the newest") {
		t.Errorf("%+v", img.LastID)
	}
	if k := img.AuthKeys[0]; k.ID != 2 || !k.Reusable || (k.Bcrypt != "") != (release >= "0.28") {
		t.Errorf("%+v", k)
	}
}

// TestPostgres moves from one PostgreSQL database to another.
func TestPostgres(t *testing.T) {
	server := pgserver.Of(t)
	theirs, err := server.Database(t.Context(), "headscale")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := server.Database(t.Context(), "heddle")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	text, err := os.ReadFile("../../../db/headscale/testdata/0.28.sql")
	if err != nil {
		t.Fatal(err)
	}
	types := strings.NewReplacer(" integer PRIMARY KEY AUTOINCREMENT", " bigserial PRIMARY KEY", " integer", " bigint", " datetime", " timestamptz", " blob", " bytea", " numeric", " boolean")
	if _, err := conn.PgConn().Exec(t.Context(), types.Replace(string(text))).ReadAll(); err != nil {
		t.Fatal(err)
	}
	o := newOld(t, "0.28")
	if err := os.Remove(filepath.Join(o.dir, "db.sqlite")); err != nil {
		t.Fatal(err)
	}
	at := conn.Config()
	o.write(t, "config.yaml", strings.Replace(settings, "  type: sqlite\n", fmt.Sprintf("  type: postgres\n  postgres: {host: %q, port: %d, name: headscale, user: %q, pass: %q}\n", at.Host, at.Port, at.User, at.Password), 1))
	cfg := target(t, "database: {url: \""+ours+"\"}")
	for i, source := range []string{o.config, o.config, theirs} {
		r, err := headscale.Import(t.Context(), headscale.Options{Source: source, Settings: map[string]string{theirs: o.config}[source], Target: cfg, Now: now})
		if err != nil || r.Already != (i > 0) {
			t.Fatalf("%s: %+v, %v", source, r, err)
		}
	}
	_, img := load(t, db.Options{URL: ours})
	checkImage(t, img, "0.28")
}

// TestSources finds everything from whatever is named.
func TestSources(t *testing.T) {
	o := newOld(t, "0.26")
	policy := o.write(t, "acl.hujson", `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:22"]}]}`)
	bare := newOld(t, "0.26")
	if err := os.Remove(bare.config); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]headscale.Options{
		"configuration":     {Source: o.config},
		"directory":         {Source: o.dir},
		"database":          {Source: filepath.Join(o.dir, "db.sqlite"), Settings: o.config},
		"policy file":       {Source: o.dir, Policy: policy},
		"no configuration":  {Source: bare.dir},
		"key from anywhere": {Source: filepath.Join(bare.dir, "db.sqlite"), NoiseKey: filepath.Join(o.dir, "noise_private.key")},
	} {
		opts.Target, opts.Now = target(t), now
		r, err := headscale.Import(t.Context(), opts)
		if err != nil || r.Nodes != 5 {
			t.Errorf("%s: %+v, %v", name, r, err)
			continue
		}
		_, img := load(t, db.Options{Path: filepath.Join(opts.Target.DataDir, "heddle.db")})
		if strings.Contains(img.Policy.Source, "*:22") != (opts.Policy != "") {
			t.Errorf("%s: policy %s", name, img.Policy.Source)
		}
		if opts.Policy != "" {
			wantNotes(t, r, `the policy has "*"`)
		}
		if (r.Saved == "") != (opts.Settings == "" && strings.HasPrefix(opts.Source, bare.dir)) {
			t.Errorf("%s: configuration in %q", name, r.Saved)
		}
	}
}

// TestIdentities takes identities apart as each release of headscale's wrote them.
func TestIdentities(t *testing.T) {
	for _, c := range []struct {
		stored, issuer string
		want           tailnet.Identity
	}{
		{"https://id.example.com/a/b/sub", "https://id.example.com/a/b", tailnet.Identity{Issuer: "https://id.example.com/a/b", Subject: "sub"}},
		{"https://id.example.com/a/b//sub", "https://id.example.com/a/b/", tailnet.Identity{Issuer: "https://id.example.com/a/b/", Subject: "sub"}},
		{"https://x.auth0.com/auth0%7C12", "https://x.auth0.com/", tailnet.Identity{Issuer: "https://x.auth0.com/", Subject: "auth0|12"}},
		{"https://id.example.com/a/of/many/parts", "https://id.example.com/a", tailnet.Identity{Issuer: "https://id.example.com/a", Subject: "of/many/parts"}},
		{"https://accounts.google.com/1234", "https://other.example.com", tailnet.Identity{Issuer: "https://accounts.google.com", Subject: "1234"}},
		{"nonsense", "https://other.example.com", tailnet.Identity{}},
	} {
		o := newOld(t, "0.26", `UPDATE users SET provider_identifier = '`+c.stored+`' WHERE id = 2`)
		o.write(t, "config.yaml", strings.Replace(settings, "https://id.example.com/realms/x/", c.issuer, 1))
		cfg := target(t)
		r, err := headscale.Import(t.Context(), headscale.Options{Source: o.dir, Target: cfg, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		_, img := load(t, db.Options{Path: filepath.Join(cfg.DataDir, "heddle.db")})
		got := append(img.Users[1].Identities, tailnet.Identity{})[0]
		if got != c.want {
			t.Errorf("%s at %s: %+v, want %+v", c.stored, c.issuer, got, c.want)
		}
		if c.want.Issuer == "" {
			wantNotes(t, r, `the identity "nonsense" is not an issuer and a subject`)
		}
	}
}

// TestRefusals sees that nothing is changed when anything is wrong.
func TestRefusals(t *testing.T) {
	damaged := newOld(t, "0.26")
	damaged.write(t, "db.sqlite", "SQLite format 3\x00 or so")
	noKey := newOld(t, "0.26")
	if err := os.Remove(filepath.Join(noKey.dir, "noise_private.key")); err != nil {
		t.Fatal(err)
	}
	badKey := newOld(t, "0.26")
	badKey.write(t, "noise_private.key", "privkey:zz")
	noPolicy := newOld(t, "0.26")
	noPolicy.write(t, "config.yaml", strings.Replace(settings, "{mode: database}", "{mode: file, path: /nowhere/acl.hujson}", 1))
	odd := newOld(t, "0.26")
	odd.write(t, "config.yaml", "songs: [a]")
	broken := newOld(t, "0.26")
	broken.write(t, "config.yaml", "a: [")
	whole := newOld(t, "0.26")
	for _, c := range []struct {
		name string
		opts headscale.Options
		code tailnet.Code
		word string
	}{
		{"nothing", headscale.Options{Source: filepath.Join(whole.dir, "none")}, tailnet.NotFound, "there is no headscale"},
		{"damaged", headscale.Options{Source: damaged.dir}, tailnet.Invalid, "damaged"},
		{"no key", headscale.Options{Source: noKey.dir}, tailnet.NotFound, "--noise-key"},
		{"bad key", headscale.Options{Source: badKey.dir}, tailnet.NotFound, "holds no key"},
		{"no policy", headscale.Options{Source: noPolicy.dir}, tailnet.NotFound, "--policy"},
		{"bad policy", headscale.Options{Source: newOld(t, "0.26", `UPDATE policies SET data = '{"acls": [{"action": "shout"}]}'`).dir}, tailnet.Invalid, "line 1"},
		{"odd configuration", headscale.Options{Source: odd.config}, tailnet.Invalid, "is not headscale's configuration"},
		{"broken configuration", headscale.Options{Source: broken.config}, tailnet.Invalid, "is not headscale's configuration"},
		{"two configurations", headscale.Options{Source: whole.config, Settings: whole.config}, tailnet.Invalid, "already"},
	} {
		c.opts.Target, c.opts.Now = target(t), now
		_, err := headscale.Import(t.Context(), c.opts)
		if tailnet.CodeOf(err) != c.code || !strings.Contains(tailnet.Message(err), c.word) {
			t.Errorf("%s: %v (%v), want %q", c.name, err, tailnet.CodeOf(err), c.word)
		}
		if _, err := os.Stat(c.opts.Target.DataDir); err == nil {
			t.Errorf("%s: the data directory was made", c.name)
		}
	}
}

// TestNotEmpty refuses a server with data of its own.
func TestNotEmpty(t *testing.T) {
	cfg := target(t)
	opts := headscale.Options{Source: newOld(t, "0.26").dir, Target: cfg, Now: now}
	if _, err := headscale.Import(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	opts.Source = newOld(t, "0.26", `UPDATE nodes SET machine_key = 'mkey:`+strings.Repeat("99", 32)+`' WHERE id = 1`).dir
	_, err := headscale.Import(t.Context(), opts)
	if tailnet.CodeOf(err) != tailnet.Conflict || !strings.Contains(tailnet.Message(err), "has a tailnet already") {
		t.Errorf("%v", err)
	}
	// So does one whose key is another.
	cfg = target(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "noise.key"), []byte("privkey:other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Target = cfg
	_, err = headscale.Import(t.Context(), opts)
	if tailnet.CodeOf(err) != tailnet.Conflict || !strings.Contains(tailnet.Message(err), "noise.key") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "heddle.db")); err == nil {
		t.Error("a database was made")
	}
}
