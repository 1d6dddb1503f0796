package headscale_test

import (
	"database/sql"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
	"heddle/db/headscale"
	"heddle/db/pgserver"

	"github.com/glebarez/sqlite"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"gorm.io/gorm"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// releases are the fixtures, and the releases that they are taken for.
var releases = []struct{ file, release string }{
	{"0.23", "0.23"}, {"0.24", "0.24–0.25"}, {"0.26", "0.26–0.27"}, {"0.28", "0.28–0.29"}, {"0.30", "0.30"},
}

// database makes a SQLite file of a fixture and more statements.
func database(t testing.TB, fixture string, more ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db.sqlite")
	script(t, path, append([]string{read(t, fixture)}, more...)...)
	return path
}

func read(t testing.TB, fixture string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", fixture+".sql"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func script(t testing.TB, path string, statements ...string) {
	t.Helper()
	g, err := gorm.Open(sqlite.Open(path), &gorm.Config{})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := g.DB()
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, s := range statements {
		if _, err := pool.Exec(s); err != nil {
			t.Fatalf("%v in %.300s", err, s)
		}
	}
}

var created = time.Date(2024, 9, 27, 14, 26, 8, 573622915, time.UTC)

func public[K any, P interface {
	*K
	UnmarshalText([]byte) error
}](t testing.TB, prefix string, n int) (k K) {
	t.Helper()
	if err := P(&k).UnmarshalText([]byte(prefix + ":" + strings.Repeat(fmt.Sprintf("%02x", n), 32))); err != nil {
		t.Fatal(err)
	}
	return k
}

func node(t testing.TB, id int, name string, user int64, hostname, os string) headscale.Node {
	return headscale.Node{
		ID: int64(id), Machine: public[key.MachinePublic](t, "mkey", id), Key: public[key.NodePublic](t, "nodekey", 0x40+id),
		Disco: public[key.DiscoPublic](t, "discokey", 0x80+id), V4: netip.MustParseAddr(fmt.Sprint("100.64.0.", id)),
		V6: netip.MustParseAddr(fmt.Sprint("fd7a:115c:a1e0::", id)), Name: name, User: user, Method: "cli",
		Report: headscale.Report{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:41641")}, Hostinfo: &tailcfg.Hostinfo{Hostname: hostname, OS: os}},
		Times:  headscale.Times{Created: created, LastSeen: created},
	}
}

// want is what a fixture holds.
func want(t testing.TB, release string) *headscale.Contents {
	hashed := release >= "0.28"
	owner := int64(1)
	if hashed {
		owner = 0 // of devices with tags
	}
	c := &headscale.Contents{
		Release: release, APIKeys: 1, LastID: headscale.LastIDs{User: 3, Node: 6, AuthKey: 5},
		Users: []headscale.User{{ID: 1, Name: "alice", Created: created}, {ID: 2, Name: "bob", Created: created}},
	}
	if release > "0.23" {
		c.Users[1].DisplayName, c.Users[1].Email, c.Users[1].Identity = "Bob", "bob@example.com", "https://id.example.com/realms/x/bob-subject"
	}
	for id := range int64(5) {
		id++
		c.AuthKeys = append(c.AuthKeys, headscale.AuthKey{
			ID: id, User: 1, Secret: strings.Repeat(fmt.Sprintf("%02x", 0xa0+id), 24), Reusable: id == 2 || id == 3, Used: id <= 3,
			Ephemeral: id == 3, Created: created, Expires: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC),
		})
	}
	c.AuthKeys[2].Tags = []string{"tag:ci"}
	c.AuthKeys[3].Expires = time.Date(2024, 9, 28, 0, 0, 0, 0, time.UTC)
	if k := &c.AuthKeys[1]; hashed {
		k.Secret, k.Prefix, k.Hash = "", "abcdefgh-_12", "$2a$04$a.TINuafVHu0H.I14vEeiORdMpC9nFxJZzJMUk4zt5fzw7olWIpEC"
	}
	if release == "0.30" {
		c.AuthKeys[1].Description, c.Clients = "for servers", 1
	}
	laptop := node(t, 1, "laptop", 1, "Laptop", "linux")
	laptop.Method, laptop.AuthKey, laptop.Report.Hostinfo.NetInfo = "authkey", 1, &tailcfg.NetInfo{PreferredDERP: 999}
	router := node(t, 2, "router", owner, "gw", "linux")
	router.Tags = []string{"tag:router"}
	router.Approved = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	router.Report.Hostinfo.RoutableIPs = router.Approved
	if release < "0.26" {
		router.Approved = append(router.Approved[:3:3], router.Approved[0]) // twice in the table
	}
	phone := node(t, 3, "phone-abcd1234", 2, "phone", "android")
	phone.Method, phone.Report.Endpoints, phone.Times.Expiry = "oidc", nil, time.Date(2098, 1, 2, 1, 4, 5, 0, time.UTC)
	runner := node(t, 5, "runner", owner, "runner", "linux")
	runner.Method, runner.AuthKey, runner.Ephemeral, runner.Tags = "authkey", 3, true, []string{"tag:ci"}
	asker := node(t, 6, "asker", owner, "asker", "linux")
	asker.Report.Hostinfo.RequestTags = []string{"tag:router", "tag:forbidden"}
	if hashed {
		asker.Tags = []string{"tag:router"}
	}
	c.Nodes = []headscale.Node{laptop, router, phone, runner, asker}
	return c
}

var equal = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(time.Microsecond), cmpopts.EquateComparable(key.MachinePublic{}, key.NodePublic{}, key.DiscoPublic{}, netip.Addr{}, netip.Prefix{}, netip.AddrPort{})}

func check(t *testing.T, s headscale.Source, release string) {
	t.Helper()
	got, err := headscale.Read(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got.Policy, "the newest") {
		t.Errorf("policy %q", got.Policy)
	}
	got.Policy = ""
	if diff := cmp.Diff(want(t, release), got, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReleases(t *testing.T) {
	for _, r := range releases {
		t.Run(r.file, func(t *testing.T) {
			path := database(t, r.file)
			before := state(t, path)
			check(t, headscale.Source{Path: path, Work: t.TempDir()}, r.release)
			if after := state(t, path); after != before {
				t.Errorf("files before: %s, after: %s", before, after)
			}
		})
	}
}

// TestWriteAheadLog reads what is in the log only, and leaves it there.
func TestWriteAheadLog(t *testing.T) {
	path := database(t, "0.28")
	pool, err := sql.Open("sqlite", path+"?_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(`UPDATE users SET name = 'alicia' WHERE id = 1`); err != nil {
		t.Fatal(err)
	}
	before := state(t, path)
	c, err := headscale.Read(t.Context(), headscale.Source{Path: path, Work: t.TempDir()})
	if err != nil || c.Users[0].Name != "alicia" {
		t.Errorf("%+v, %v", c, err)
	}
	if after := state(t, path); after != before || !strings.Contains(before, "-wal") {
		t.Errorf("files before: %s, after: %s", before, after)
	}
}

func state(t *testing.T, path string) string {
	t.Helper()
	var out []string
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprint(filepath.Base(f), info.Size(), info.ModTime()))
	}
	return strings.Join(out, "; ")
}

func TestPostgres(t *testing.T) {
	server := pgserver.Of(t)
	types := strings.NewReplacer(" integer PRIMARY KEY AUTOINCREMENT", " bigserial PRIMARY KEY", " integer", " bigint", " datetime", " timestamptz", " blob", " bytea", " numeric", " boolean")
	for i, r := range releases {
		t.Run(r.file, func(t *testing.T) {
			url, err := server.Database(t.Context(), fmt.Sprint("headscale", i))
			if err != nil {
				t.Fatal(err)
			}
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			text := read(t, r.file)
			for _, table := range []string{"users", "nodes", "pre_auth_keys"} {
				text += fmt.Sprintf("SELECT setval('%s_id_seq', (SELECT max(id) FROM %[1]s));\n", table)
			}
			text = types.Replace(text)
			if _, err := conn.PgConn().Exec(t.Context(), text).ReadAll(); err != nil {
				t.Fatal(err)
			}
			check(t, headscale.Source{URL: url}, r.release)
		})
	}
	_, err := headscale.Read(t.Context(), headscale.Source{URL: "postgres://u:hunter2@127.0.0.1:1/x"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestOddRows(t *testing.T) {
	path := database(t, "0.26",
		`UPDATE nodes SET approved_routes = CAST('["10.1.0.0/16"]' AS BLOB), disco_key = '', ipv6 = NULL, last_seen = NULL WHERE id = 1`,
		`UPDATE nodes SET machine_key = 'mkey:12' WHERE id = 2`,
		`UPDATE nodes SET host_info = '{', forced_tags = 'null' WHERE id = 3`,
		`UPDATE nodes SET auth_key_id = 99 WHERE id = 5`,
		`UPDATE users SET deleted_at = '2024-09-27 14:26:08', created_at = 'yesterday' WHERE id = 2`,
		`UPDATE pre_auth_keys SET used = 'true', reusable = 'false', expiration = NULL WHERE id = 5`,
		`UPDATE pre_auth_keys SET ephemeral = 'perhaps' WHERE id = 4`,
		`CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)`, `ALTER TABLE nodes ADD COLUMN hostinfo text`,
		`INSERT INTO users (id, name, created_at) VALUES (9, 'gone', '2024-01-01')`, `DELETE FROM users WHERE id = 9`)
	c, err := headscale.Read(t.Context(), headscale.Source{Path: path, Work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Users) != 1 || len(c.Nodes) != 3 || c.Nodes[1].Ephemeral || c.LastID.User != 9 {
		t.Errorf("%+v", c)
	}
	if n := c.Nodes[0]; len(n.Approved) != 1 || !n.Disco.IsZero() || n.V6.IsValid() || !n.Times.LastSeen.IsZero() {
		t.Errorf("%+v", n)
	}
	if k := c.AuthKeys[3]; k.ID != 5 || !k.Used || k.Reusable || !k.Expires.IsZero() {
		t.Errorf("%+v", k)
	}
	text := strings.Join(c.Damaged, "\n")
	for _, word := range []string{"row 2 of nodes: machine_key", "row 3 of nodes: host_info", "row 4 of pre_auth_keys: ephemeral"} {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in %q", word, text)
		}
	}
}

func TestRefusals(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage.sqlite")
	half := filepath.Join(t.TempDir(), "half.sqlite")
	whole, err := os.ReadFile(database(t, "0.26"))
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{garbage: []byte("SQLite format 3\x00 and nothing of the kind"), half: whole[:len(whole)/2]} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(t.TempDir(), "old.sqlite")
	script(t, old, `CREATE TABLE machines (id integer)`, `CREATE TABLE namespaces (id integer)`)
	other := filepath.Join(t.TempDir(), "other.sqlite")
	script(t, other, `CREATE TABLE songs (id integer)`)
	for _, c := range []struct{ name, path, word string }{
		{"none", filepath.Join(t.TempDir(), "none"), "there is no database"},
		{"directory", t.TempDir(), "is not a file"},
		{"garbage", garbage, "damaged"},
		{"half", half, "damaged"},
		{"old", old, "upgrade headscale to 0.23"},
		{"other", other, "not headscale's"},
		{"between", database(t, "0.26", `ALTER TABLE nodes DROP COLUMN approved_routes`), "no routes"},
		{"column", database(t, "0.26", `ALTER TABLE nodes DROP COLUMN node_key`), "lacks the column node_key"},
		{"0.22", database(t, "0.23", `ALTER TABLE nodes RENAME COLUMN ipv4 TO ip_addresses`), "upgrade headscale to 0.23"},
	} {
		_, err := headscale.Read(t.Context(), headscale.Source{Path: c.path, Work: t.TempDir()})
		if err == nil || !strings.Contains(tailnet.Message(err), c.word) {
			t.Errorf("%s: %v, want %q", c.name, err, c.word)
		}
	}
}
