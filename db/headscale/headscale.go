// Package headscale owns reading the database of a headscale server, releases 0.23 to 0.30, SQLite or
// PostgreSQL, and never writes to it. It refuses to know what becomes of what it reads, and headscale's
// other files.
package headscale

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"heddle/control/tailnet"

	"gorm.io/gorm"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Contents are what a headscale knows. Rows that were deleted are not in it.
type Contents struct {
	Release  string // "0.24–0.25": the releases whose tables look like these
	Users    []User
	Nodes    []Node
	AuthKeys []AuthKey
	Policy   string // HuJSON of the latest policy in the database; "" if there is none
	LastID   LastIDs
	APIKeys  int      // how many there are that work
	Clients  int      // OAuth clients
	Damaged  []string // rows that cannot be read, and why; nil if there are none
}

// LastIDs are the highest IDs that were ever given, as far as the database knows.
type LastIDs struct{ User, Node, AuthKey int64 }

// A User is a row of users.
type User struct {
	ID          int64
	Name        string
	DisplayName string
	Email       string
	Identity    string // issuer and subject in one: ISSUER/SUBJECT; "" for users of the command line
	PictureURL  string
	Created     time.Time
}

// A Node is a row of nodes, with what other tables say of it.
type Node struct {
	ID       int64
	Machine  key.MachinePublic
	Key      key.NodePublic
	Disco    key.DiscoPublic // may be zero
	V4, V6   netip.Addr      // either may be invalid
	Name     string          // in DNS
	User     int64           // zero if it has none
	Tags     []string        // in force by the database alone: those of an admin or of the key
	Method   string          // authkey, oidc, cli
	AuthKey  int64           // that admitted it; zero if none
	Report   Report
	Approved []netip.Prefix
	Times    Times

	Ephemeral bool
}

// Report is what a node said of itself.
type Report struct {
	Endpoints []netip.AddrPort
	Hostinfo  *tailcfg.Hostinfo // never nil
}

// Times are a node's; Expiry zero means never.
type Times struct{ Created, LastSeen, Expiry time.Time }

// An AuthKey is a row of pre_auth_keys.
type AuthKey struct {
	ID          int64
	Secret      string // up to 0.27; "" if only the hash is known
	Prefix      string // since 0.28, with Hash
	Hash        string // bcrypt
	User        int64  // zero if it has none
	Tags        []string
	Reusable    bool
	Ephemeral   bool
	Used        bool
	Revoked     bool
	Description string
	Created     time.Time
	Expires     time.Time // zero means never
}

// Read reads a database. It fails with an error that says what is wrong if it is not a headscale's,
// too old, damaged, or being written to.
func Read(ctx context.Context, s Source) (c *Contents, err error) {
	err = s.open(ctx, func(g *gorm.DB) error {
		c, err = read(g)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// layout tells which release made the tables.
func layout(t *tables) (release string, err error) {
	if !t.has("nodes") || !t.has("users") || !t.has("pre_auth_keys") {
		if t.has("machines") || t.has("namespaces") {
			return "", tailnet.Errorf(tailnet.Invalid, "the database is of a headscale before 0.23: upgrade headscale to 0.23 first")
		}
		return "", tailnet.Errorf(tailnet.Invalid, "the database is not headscale's: it lacks the tables users, nodes and pre_auth_keys")
	}
	for table, columns := range map[string][]string{
		"nodes":         {"id", "machine_key", "node_key", "ipv4", "ipv6", "given_name", "user_id", "host_info", "expiry"},
		"users":         {"id", "name"},
		"pre_auth_keys": {"id", "key", "reusable", "ephemeral", "used", "expiration"},
	} {
		for _, column := range columns {
			if t.has(table, column) {
				continue
			}
			if column == "ipv4" && t.has("nodes", "ip_addresses") {
				return "", tailnet.Errorf(tailnet.Invalid, "the database is of a headscale before 0.23: upgrade headscale to 0.23 first")
			}
			return "", tailnet.Errorf(tailnet.Invalid, "the table %s lacks the column %s: an upgrade of headscale went wrong, or this is not headscale's; start headscale once and look at its log", table, column)
		}
	}
	switch {
	case t.has("pre_auth_keys", "revoked"):
		return "0.30", nil
	case t.has("pre_auth_keys", "prefix"):
		return "0.28–0.29", nil
	case t.has("nodes", "approved_routes"):
		return "0.26–0.27", nil
	case !t.has("routes"):
		return "", tailnet.Errorf(tailnet.Invalid, "the database has no routes: neither the table routes nor the column approved_routes of nodes; an upgrade of headscale went wrong")
	case t.has("users", "provider_identifier"):
		return "0.24–0.25", nil
	}
	return "0.23", nil
}

func read(g *gorm.DB) (*Contents, error) {
	t, err := newTables(g)
	if err != nil {
		return nil, err
	}
	c := &Contents{}
	if c.Release, err = layout(t); err != nil {
		return nil, err
	}
	for _, part := range []func(*tables, *Contents) error{readUsers, readAuthKeys, readNodes, readRest} {
		if err := part(t, c); err != nil {
			return nil, err
		}
	}
	c.Damaged = t.damaged
	c.LastID = LastIDs{User: t.last("users"), Node: t.last("nodes"), AuthKey: t.last("pre_auth_keys")}
	return c, nil
}

func readUsers(t *tables, c *Contents) error {
	return t.each("users", func(r *row) {
		u := User{
			ID: r.id, Name: r.text("name"), DisplayName: r.text("display_name"), Email: r.text("email"),
			Identity: r.text("provider_identifier"), PictureURL: r.text("profile_pic_url"), Created: r.time("created_at"),
		}
		if r.good() {
			c.Users = append(c.Users, u)
		}
	})
}

func readAuthKeys(t *tables, c *Contents) error {
	tags := map[int64][]string{} // 0.23 has them in a table of their own
	if t.has("pre_auth_key_acl_tags") && !t.has("pre_auth_keys", "tags") {
		err := t.each("pre_auth_key_acl_tags", func(r *row) {
			tags[r.number("pre_auth_key_id")] = append(tags[r.number("pre_auth_key_id")], r.text("tag"))
		})
		if err != nil {
			return err
		}
	}
	return t.each("pre_auth_keys", func(r *row) {
		k := AuthKey{
			ID: r.id, Secret: r.text("key"), Prefix: r.text("prefix"), Hash: r.text("hash"), User: r.number("user_id"),
			Tags: append(list[string](r, "tags"), tags[r.id]...), Reusable: r.truth("reusable"), Ephemeral: r.truth("ephemeral"),
			Used: r.truth("used"), Revoked: !r.time("revoked").IsZero(), Description: r.text("description"),
			Created: r.time("created_at"), Expires: r.time("expiration"),
		}
		if r.good() {
			c.AuthKeys = append(c.AuthKeys, k)
		}
	})
}

func readNodes(t *tables, c *Contents) error {
	routes, err := oldRoutes(t)
	if err != nil {
		return err
	}
	keys := map[int64]*AuthKey{}
	for i, k := range c.AuthKeys {
		keys[k.ID] = &c.AuthKeys[i]
	}
	// Until 0.27 a node has the tags of an admin and those of its key; since then they are one.
	tagsOfKeys := t.has("nodes", "forced_tags")
	return t.each("nodes", func(r *row) {
		n := Node{
			ID: r.id, V4: r.addr("ipv4"), V6: r.addr("ipv6"), Name: r.text("given_name"), User: r.number("user_id"),
			Tags: append(list[string](r, "tags"), list[string](r, "forced_tags")...), Method: r.text("register_method"), AuthKey: r.number("auth_key_id"),
			Report:   Report{Endpoints: list[netip.AddrPort](r, "endpoints"), Hostinfo: &tailcfg.Hostinfo{}},
			Approved: append(list[netip.Prefix](r, "approved_routes"), routes[r.id]...),
			Times:    Times{Created: r.time("created_at"), LastSeen: r.time("last_seen"), Expiry: r.time("expiry")},
		}
		r.key("machine_key", &n.Machine)
		r.key("node_key", &n.Key)
		if r.text("disco_key") != "" {
			r.key("disco_key", &n.Disco)
		}
		r.json("host_info", n.Report.Hostinfo)
		if k := keys[n.AuthKey]; k != nil {
			n.Ephemeral = k.Ephemeral
			if tagsOfKeys {
				n.Tags = append(n.Tags, k.Tags...)
			}
		}
		if r.good() {
			c.Nodes = append(c.Nodes, n)
		}
	})
}

// oldRoutes returns the approved routes by node as they were kept until 0.25.
func oldRoutes(t *tables) (map[int64][]netip.Prefix, error) {
	routes := map[int64][]netip.Prefix{}
	if !t.has("routes") || t.has("nodes", "approved_routes") {
		return routes, nil
	}
	err := t.each("routes", func(r *row) {
		if !r.truth("enabled") {
			return
		}
		p, err := netip.ParsePrefix(r.text("prefix"))
		if err != nil {
			r.fail("prefix", err)
		}
		if id := r.number("node_id"); r.good() {
			routes[id] = append(routes[id], p)
		}
	})
	return routes, err
}

func readRest(t *tables, c *Contents) error {
	var newest int64
	for table, fn := range map[string]func(*row){
		"policies": func(r *row) {
			if r.id > newest {
				newest, c.Policy = r.id, r.text("data")
			}
		},
		"api_keys":      func(*row) { c.APIKeys++ },
		"oauth_clients": func(*row) { c.Clients++ },
	} {
		if !t.has(table) {
			continue
		}
		if err := t.each(table, fn); err != nil {
			return err
		}
	}
	return nil
}

// describe names a row for people.
func describe(table string, id int64) string { return fmt.Sprintf("row %d of %s", id, table) }
