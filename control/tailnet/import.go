package tailnet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"heddle/policy"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// An Import is what another control server knew of a tailnet.
type Import struct {
	From     string // for the audit log: "headscale 0.26"
	Users    []*User
	Nodes    []*Node
	AuthKeys []*AuthKey
	LastID   LastIDs // the highest IDs that the other server is known to have given
}

// Import takes over what another server knew into a tailnet that is empty. IDs, keys, addresses and names stay as
// they are wherever heddle could have given them, so that devices notice nothing; the notes tell in words what became
// something else, or nothing, and are nil if all is as it was. Only who holds the machine may do it.
func (tx *Tx) Import(in Import) (notes []string, err error) {
	if tx.actor.Kind != LocalCLI && tx.actor.Kind != System {
		return nil, Errorf(Denied, "%s may not import a tailnet: that is done on the server's machine", tx.actor)
	}
	if err := tx.mustBeEmpty(); err != nil {
		return nil, err
	}
	if len(in.Users) > maxUsers || len(in.AuthKeys) > maxKeys {
		return nil, Errorf(Exhausted, "%s has %d users and %d auth keys; a tailnet can have %d and %d", in.From, len(in.Users), len(in.AuthKeys), maxUsers, maxKeys)
	}
	im := importer{tx: tx}
	for _, u := range slices.SortedFunc(slices.Values(in.Users), func(a, b *User) int { return cmp.Compare(a.ID, b.ID) }) {
		im.user(*u)
	}
	for _, k := range slices.SortedFunc(slices.Values(in.AuthKeys), func(a, b *AuthKey) int { return cmp.Compare(a.ID, b.ID) }) {
		im.authKey(*k)
	}
	for _, n := range in.Nodes {
		tx.state.alloc.taken(n.Addrs) // also those that come later keep theirs
		im.keep(n.Addrs)
	}
	for _, n := range im.distinct(in.Nodes) {
		if err := im.node(n.clone()); err != nil {
			return nil, err
		}
	}
	last := &tx.snap.lastID
	last.Node, last.User = max(last.Node, in.LastID.Node), max(last.User, in.LastID.User)
	last.AuthKey = max(last.AuthKey, in.LastID.AuthKey)
	tx.audit("tailnet.import", in.From,
		Change{"users", "", fmt.Sprint(tx.snap.users.m.Len())},
		Change{"nodes", "", fmt.Sprint(tx.snap.NumNodes())},
		Change{"authKeys", "", fmt.Sprint(tx.snap.authKeys.m.Len())})
	return im.notes, nil
}

func (tx *Tx) mustBeEmpty() error {
	s := &tx.snap
	users, nodes := s.users.m.Len(), s.NumNodes()
	if users+nodes+s.authKeys.m.Len()+s.apiKeys.m.Len()+s.tombstones.Len() > 0 || s.lastID != (LastIDs{}) {
		return Errorf(Conflict, "this tailnet is not empty: it has, or had, users and devices (%d and %d now); import into a new one", users, nodes)
	}
	return nil
}

// An importer is an import under way.
type importer struct {
	tx    *Tx
	notes []string
	addrs map[netip.Addr]bool // that nodes bring along
}

func (im *importer) note(format string, args ...any) {
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

func (im *importer) keep(a Addrs) {
	if im.addrs == nil {
		im.addrs = map[netip.Addr]bool{}
	}
	for _, p := range a.Prefixes() {
		im.addrs[p.Addr()] = true
	}
}

// distinct returns one node for each node key, by ID. Of two with one key the device uses the one that was
// seen last.
func (im *importer) distinct(nodes []*Node) []*Node {
	var out []*Node
	last := map[key.NodePublic]*Node{}
	for _, n := range slices.SortedFunc(slices.Values(nodes), func(a, b *Node) int {
		return cmp.Or(b.Status.LastSeen.Compare(a.Status.LastSeen), cmp.Compare(b.ID, a.ID))
	}) {
		if other := last[n.Key]; other != nil && !n.Key.IsZero() {
			im.note("node %d (%s) is left out: node %d (%s) has the same key and was seen later", n.ID, n.Name, other.ID, other.Name)
			continue
		}
		last[n.Key] = n
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (im *importer) user(u User) {
	tx := im.tx
	if u.ID <= 0 || u.ID >= TaggedDevices || tx.snap.User(u.ID) != nil {
		im.note("user %q is left out: the ID %d cannot be", u.Name, u.ID)
		return
	}
	u.Role, u.Status = cmp.Or(u.Role, policy.Member), cmp.Or(u.Status, UserActive)
	for _, text := range []*string{&u.DisplayName, &u.Email, &u.PictureURL} {
		if checkText(*text) != nil {
			im.note("user %d (%s): %.40q is not taken over: it is too long, or has control characters", u.ID, u.Name, *text)
			*text = ""
		}
	}
	if other := tx.userNamed(u.Email); u.Email != "" && other != nil {
		im.note("user %d (%s): the e-mail address %s is user %d's (%s) already and is not taken over", u.ID, u.Name, u.Email, other.ID, other.Name)
		u.Email = ""
	}
	name, err := tx.checkUserName(u.Name, 0)
	if err != nil {
		name = tx.freeUserName(cmp.Or(u.Name, u.Email, u.DisplayName))
		if u.Name != "" {
			im.note("user %d, %q, is called %s here: %s", u.ID, u.Name, name, Message(err))
		}
	}
	u.Name = name
	u.Identities = slices.DeleteFunc(slices.Clone(u.Identities), func(i Identity) bool {
		other := tx.snap.UserByIdentity(i)
		if other != nil {
			im.note("user %d (%s): the identity %s at %s is user %d's already and is not taken over", u.ID, u.Name, i.Subject, i.Issuer, other.ID)
		}
		return other != nil || i.Issuer == "" || i.Subject == "" || checkText(i.Issuer) != nil || checkText(i.Subject) != nil
	})
	tx.snap.lastID.User = max(tx.snap.lastID.User, u.ID)
	tx.putUser(&u)
}

func (im *importer) authKey(k AuthKey) {
	tx := im.tx
	var err error
	switch {
	case k.ID <= 0 || tx.snap.AuthKey(k.ID) != nil:
		err = Errorf(Invalid, "its ID cannot be")
	case k.Owner != 0 && tx.snap.User(k.Owner) == nil:
		err = Errorf(Invalid, "its user does not exist")
	case k.Owner == 0 && len(k.Tags) == 0:
		err = Errorf(Invalid, "it has neither a user nor tags")
	case k.Public == "" || checkText(k.Public) != nil:
		err = Errorf(Invalid, "it has not the form of a key")
	case k.Bcrypt != "":
		err = checkBcrypt(k.Bcrypt)
	}
	if _, taken := tx.snap.index.authKey.Get(k.Public); err == nil && taken {
		err = Errorf(Invalid, "another key begins like it")
	}
	if err != nil {
		im.note("auth key %d is left out: %s", k.ID, Message(err))
		return
	}
	k.Tags = im.tags(fmt.Sprintf("auth key %d", k.ID), k.Tags)
	if checkText(k.Description) != nil {
		k.Description = ""
	}
	if most := tx.now.Add(maxKeyLife); k.Expires.IsZero() || k.Expires.After(most) {
		im.note("auth key %d expires in ten years, not later: keys do not last for ever here", k.ID)
		k.Expires = most
	}
	tx.snap.lastID.AuthKey = max(tx.snap.lastID.AuthKey, k.ID)
	tx.putAuthKey(&k)
}

// tags returns those that are tags, sorted.
func (im *importer) tags(of string, tags []string) []string {
	return sortedUnique(slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
		bad := tailcfg.CheckTag(tag) != nil || len(tag) > maxText
		if bad {
			im.note("%s: %.60q is no tag and is not taken over", of, tag)
		}
		return bad
	}))
}

// node takes over a node, which is a copy.
func (im *importer) node(n *Node) error {
	tx := im.tx
	of := fmt.Sprintf("node %d (%s)", n.ID, n.Name)
	hadTags := len(n.Tags) > 0
	if n.Tags = im.tags(of, n.Tags); n.Tagged() {
		n.Owner = 0
	} else {
		n.Tags = nil
	}
	switch {
	case n.ID <= 0 || tx.snap.Node(n.ID) != nil:
		im.note("%s is left out: its ID cannot be", of)
		return nil
	case n.Machine.IsZero() || n.Key.IsZero():
		im.note("%s is left out: it has no keys", of)
		return nil
	case !n.Tagged() && (tx.snap.User(n.Owner) == nil || hadTags && n.Owner == 0):
		im.note("%s is left out: its user does not exist", of)
		return nil
	}
	host, eps := CleanHostinfo(n.Report.Hostinfo), n.Report.Endpoints
	n.Report = &Report{Disco: n.Report.Disco, Endpoints: eps[:min(len(eps), maxEndpoints)], CapVer: n.Report.CapVer, Hostinfo: host}
	if host.NetInfo != nil {
		n.Report.HomeDERP = host.NetInfo.PreferredDERP
	}
	im.name(n, of)
	if err := im.addresses(n, of); err != nil {
		return err
	}
	im.routes(n, of)
	if n.Origin.Method != ByAuthKey && n.Origin.Method != ByOIDC {
		n.Origin.Method = ByCLI
	}
	if n.Tagged() && n.Expiry.After(tx.now) {
		n.Expiry = time.Time{} // devices with tags do not expire
	}
	tx.setExpiry(n, n.Expiry)
	tx.snap.lastID.Node = max(tx.snap.lastID.Node, n.ID)
	tx.putHard(n)
	if n.Ephemeral {
		tx.after(ephemeralTimer, n.ID, tx.state.opts.EphemeralTimeout)
	}
	return nil
}

// name keeps the name if it can be one. A name that is not the hostname's stays when that changes.
func (im *importer) name(n *Node, of string) {
	label := labelOf(n.Report.Hostinfo)
	name, err := checkName(n.Name)
	switch {
	case err != nil:
		name = im.tx.freeName(labelOf(&tailcfg.Hostinfo{Hostname: n.Name, OS: n.Report.Hostinfo.OS}), n.ID)
	case im.tx.snap.NodeByName(name) != nil:
		name = im.tx.freeName(name, n.ID)
	}
	if !strings.EqualFold(name, n.Name) {
		im.note("%s is called %s here: the name was taken, or is not one for DNS", of, name)
	}
	n.Name = name
	base, no, numbered := cutLast(name, "-")
	n.Fixed = name != label && !(numbered && base == label && isNumber(no))
}

// addresses gives a node an address of each family that it lacks, or of which its own is somebody else's.
func (im *importer) addresses(n *Node, of string) error {
	for _, a := range []struct {
		ip   *netip.Addr
		pick func(Addrs) netip.Addr
	}{
		{&n.Addrs.V4, func(a Addrs) netip.Addr { return a.V4 }},
		{&n.Addrs.V6, func(a Addrs) netip.Addr { return a.V6 }},
	} {
		old := *a.ip
		if old.IsValid() && im.tx.snap.NodeByIP(old) == nil {
			continue
		}
		for {
			fresh, err := im.tx.state.alloc.next(&im.tx.snap, nil)
			if err != nil {
				return err
			}
			if *a.ip = a.pick(fresh); !im.addrs[*a.ip] { // nobody brings that along
				break
			}
		}
		if old.IsValid() {
			im.note("%s gets the address %s: %s is another node's", of, *a.ip, old)
		} else {
			im.note("%s gets the address %s: it had none of this kind", of, *a.ip)
		}
	}
	return nil
}

// routes keeps the approved routes that can be routes.
func (im *importer) routes(n *Node, of string) {
	routes := slices.DeleteFunc(slices.Clone(n.Approved), func(p netip.Prefix) bool {
		_, err := cleanRoutes([]netip.Prefix{p})
		if err != nil {
			im.note("%s: the approved route is not taken over: %s", of, Message(err))
		}
		return err != nil
	})
	n.Approved, _ = cleanRoutes(routes)
}
