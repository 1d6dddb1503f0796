package headscale

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"heddle/control/tailnet"
	"heddle/db"
	foreign "heddle/db/headscale"
	"heddle/policy"

	"tailscale.com/tailcfg"
)

// madeName is the database that an import makes in its scratch directory.
const madeName = "heddle.db"

// fill makes a database of heddle's of what was read, with all checks that a server makes, and the
// configuration.
func (m *move) fill(ctx context.Context, scratch string) error {
	made := m.translate()
	doc, err := policy.Parse([]byte(m.policy))
	if m.policy != "" && err != nil {
		return m.badPolicy(err)
	}
	in := m.convert(doc)
	path := filepath.Join(scratch, madeName)
	store, err := db.Open(ctx, db.Options{Path: path})
	if err != nil {
		return err
	}
	err = m.run(ctx, store, made, in)
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	img, err := load(ctx, path)
	if err != nil {
		return err
	}
	m.image = *img
	m.report.Users, m.report.Nodes, m.report.AuthKeys, m.report.Policy = len(img.Users), len(img.Nodes), len(img.AuthKeys), img.Policy != nil
	m.missing()
	return nil
}

// run lets a tailnet take over what another server knew, and its policy.
func (m *move) run(ctx context.Context, store tailnet.Store, ranges tailnet.Ranges, in tailnet.Import) error {
	state, err := tailnet.Open(ctx, store, tailnet.Options{Addresses: ranges, EphemeralTimeout: m.Target.Nodes.EphemeralTimeout})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- state.Run(ctx) }()
	actor := tailnet.Actor{Kind: tailnet.LocalCLI, Name: "heddle import headscale"}
	var notes []string
	_, err = state.Update(ctx, actor, func(tx *tailnet.Tx) (err error) {
		notes, err = tx.Import(in)
		return err
	})
	m.report.Notes = append(m.report.Notes, notes...)
	if err == nil && m.policy != "" {
		var set *tailnet.PreparedPolicy
		if set, _, err = state.PutPolicy(ctx, actor, m.policy, ""); err != nil {
			err = m.badPolicy(err)
		} else {
			for _, w := range set.Warnings {
				m.note("policy, line %d: %s", w.Line, w.Msg)
			}
		}
	}
	stop()
	return errors.Join(err, <-done)
}

func (m *move) badPolicy(err error) error {
	var problems policy.Errors
	text := tailnet.Message(err)
	if errors.As(err, &problems) {
		text = problems.Error()
	}
	return &tailnet.Error{Code: tailnet.Invalid, Err: err, Msg: "headscale's policy is not one here; mend a copy of it and give that with --policy: " + text}
}

// missing notes what has no place here.
func (m *move) missing() {
	c := m.contents
	if c.APIKeys > 0 {
		m.note("%d API keys are not taken over: make new ones with `heddle apikeys create`", c.APIKeys)
	}
	if c.Clients > 0 {
		m.note("%d OAuth clients are not taken over: make new ones with `heddle oauth-clients create`", c.Clients)
	}
	if m.policy == "" {
		m.note("there is no policy: as with headscale every device may reach every other; `heddle policy set` changes that")
	}
	if strings.Contains(m.policy, `"*"`) && c.Release != "0.30" {
		m.note(`the policy has "*": as a source that was any address for headscale before 0.29; here it is those of devices and of approved routes ("autogroup:danger-all" is any address)`)
	}
	identities := 0
	for _, u := range m.image.Users {
		identities += len(u.Identities)
		if u.Login() != u.Name+"@" && u.Login() != u.Name && strings.Contains(m.policy, `"`+u.Name+`@"`) {
			m.note("the policy names %s@, who is %s here and must be named so: what it says of %[1]s@ has no effect until then", u.Name, u.Login())
		}
	}
	switch {
	case identities > 0:
		m.note("nobody is an owner yet: name owners in oidc.owners, or use `heddle users set-role`")
	case m.settings.text("oidc.issuer") != "":
		m.note("no user has an identity at the identity provider, as headscale 0.23 kept none: who logs in becomes a new user, unless linked before with `heddle users link`")
	}
}

// convert makes users, nodes and auth keys of headscale's. doc is the policy; nil if there is none.
func (m *move) convert(doc *policy.Doc) tailnet.Import {
	c := m.contents
	in := tailnet.Import{From: "headscale " + c.Release, LastID: tailnet.LastIDs{
		Node: tailnet.NodeID(c.LastID.Node), User: tailnet.UserID(c.LastID.User), AuthKey: tailnet.AuthKeyID(c.LastID.AuthKey),
	}}
	users := map[int64]*tailnet.User{}
	for _, u := range c.Users {
		out := &tailnet.User{
			ID: tailnet.UserID(u.ID), Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, PictureURL: u.PictureURL, Created: u.Created,
		}
		if u.Identity != "" {
			if who, ok := identity(u.Identity, m.settings.text("oidc.issuer")); ok {
				out.Identities = []tailnet.Identity{who}
			} else {
				m.note("user %d (%s): the identity %q is not an issuer and a subject; link the user with `heddle users link`", u.ID, u.Name, u.Identity)
			}
		}
		users[u.ID] = out
		in.Users = append(in.Users, out)
	}
	dead := 0
	for _, k := range c.AuthKeys {
		if k.Revoked || k.Used && !k.Reusable || !k.Expires.IsZero() && !k.Expires.After(m.Now) {
			dead++
			continue
		}
		if out := m.authKey(k); out != nil {
			in.AuthKeys = append(in.AuthKeys, out)
		}
	}
	if dead > 0 {
		m.note("%d auth keys that are used up, expired or revoked are not taken over", dead)
	}
	for _, n := range c.Nodes {
		in.Nodes = append(in.Nodes, m.node(n, users[n.User], doc))
	}
	return in
}

// identity takes an identity apart into issuer and subject. headscale joined them by a slash, some of its
// releases as parts of a URL, which drops a slash at the end of the issuer and encodes the subject.
func identity(joined, issuer string) (who tailnet.Identity, ok bool) {
	i := strings.LastIndexByte(joined, '/')
	who.Issuer, who.Subject = joined[:max(i, 0)], joined[i+1:]
	if trimmed := strings.TrimRight(issuer, "/") + "/"; issuer != "" && len(joined) > len(trimmed) && strings.EqualFold(joined[:len(trimmed)], trimmed) {
		who.Issuer, who.Subject = issuer, strings.TrimLeft(joined[len(trimmed):], "/")
	}
	if plain, err := url.PathUnescape(who.Subject); err == nil {
		who.Subject = plain
	}
	return who, strings.Contains(who.Issuer, "://") && who.Subject != ""
}

// authKey returns nil for a key that cannot be one here.
func (m *move) authKey(k foreign.AuthKey) *tailnet.AuthKey {
	out := &tailnet.AuthKey{
		ID: tailnet.AuthKeyID(k.ID), Owner: tailnet.UserID(k.User), Tags: k.Tags, Reusable: k.Reusable, Ephemeral: k.Ephemeral,
		Description: k.Description, Created: k.Created, Expires: k.Expires,
	}
	if k.Hash != "" {
		out.Public, out.Bcrypt = k.Prefix, k.Hash
		return out
	}
	var ok bool
	if out.Public, out.Hash, ok = tailnet.ForeignAuthKey(k.Secret); !ok {
		m.note("auth key %d is left out: it has not the form of a key of headscale's", k.ID)
		return nil
	}
	return out
}

// node keeps the ID: clients remember the exit node that was chosen by it.
func (m *move) node(n foreign.Node, owner *tailnet.User, doc *policy.Doc) *tailnet.Node {
	out := &tailnet.Node{
		ID: tailnet.NodeID(n.ID), StableID: tailcfg.StableNodeID(fmt.Sprint(n.ID)), Machine: n.Machine, Key: n.Key,
		Owner: tailnet.UserID(n.User), Tags: n.Tags, Name: n.Name, Addrs: tailnet.Addrs{V4: n.V4, V6: n.V6}, Expiry: n.Times.Expiry,
		Terms: tailnet.Terms{Ephemeral: n.Ephemeral}, Approved: n.Approved,
		Origin: tailnet.Origin{Created: n.Times.Created, Method: tailnet.Method(n.Method), AuthKey: tailnet.AuthKeyID(n.AuthKey)},
		Report: &tailnet.Report{Disco: n.Disco, Endpoints: n.Report.Endpoints, Hostinfo: n.Report.Hostinfo},
		Status: tailnet.Status{LastSeen: n.Times.LastSeen},
	}
	if !n.V4.Is4() {
		out.Addrs.V4 = netip.Addr{}
	}
	if !n.V6.Is6() {
		out.Addrs.V6 = netip.Addr{}
	}
	// Until 0.27 the tags that a device asked for were weighed each time and not kept.
	if owner != nil && doc != nil && m.oldTags() {
		for _, tag := range n.Report.Hostinfo.RequestTags {
			if doc.MayTag(&policy.User{ID: policy.UserID(owner.ID), Login: owner.Login()}, nil, tag) && !slices.Contains(out.Tags, tag) {
				out.Tags = append(out.Tags, tag)
			}
		}
	}
	return out
}

func (m *move) oldTags() bool {
	return slices.Contains([]string{"0.23", "0.24–0.25", "0.26–0.27"}, m.contents.Release)
}
