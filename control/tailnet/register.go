package tailnet

import (
	"cmp"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"heddle/policy"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Registration is what a device asks for when it joins or logs in again.
// Machine is proved by the connection; everything else is only claimed.
type Registration struct {
	Machine   key.MachinePublic
	Key       key.NodePublic
	OldKey    key.NodePublic // zero if there is none
	Hostinfo  *tailcfg.Hostinfo
	CapVer    tailcfg.CapabilityVersion
	Ephemeral bool
}

// ErrStaleKey is what a registration fails with whose node key was good once
// and was given up: a key must never come back under another node, so the client has to
// make a new one (RegisterResponse.NodeKeyExpired tells it to).
var ErrStaleKey = errors.New("node key was used before")

var errStaleKey = &Error{Code: Denied, Msg: "this device's key cannot be used again; log in again", Err: ErrStaleKey}

// RegisterWithAuthKey admits a device by an auth key and uses the key up.
//
// A one-time key that is used up still admits the machine that used it, until
// that machine has opened its first map stream: the answer may have been lost.
func (tx *Tx) RegisterWithAuthKey(r Registration, secret string) (*Node, error) {
	k, err := tx.snap.FindAuthKey(secret)
	if err != nil {
		return nil, err
	}
	if err := k.Usable(tx.now); err != nil && !tx.retried(r, k) {
		return nil, err
	}
	if u := tx.snap.User(k.Owner); u != nil && u.Status == UserSuspended {
		return nil, Errorf(Denied, "auth key %s belongs to a user who is suspended", k.Public)
	}
	tags, err := tx.admittedTags(r, k)
	if err != nil {
		return nil, err
	}
	n, err := tx.admit(r, admission{
		owner: k.Owner, tags: tags, ephemeral: k.Ephemeral, method: ByAuthKey, authKey: k.ID, approved: k.Approved,
	})
	if err != nil {
		return nil, err
	}
	used := *k
	used.Used = tx.now
	tx.putAuthKey(&used)
	return n, nil
}

// retried reports whether r repeats the registration that used up k.
func (tx *Tx) retried(r Registration, k *AuthKey) bool {
	return k.Revoked.IsZero() && slices.ContainsFunc(tx.snap.NodesByMachine(r.Machine), func(n *Node) bool {
		return n.Origin.AuthKey == k.ID && n.Status.LastSeen.IsZero()
	})
}

// RegisterForUser admits a device for a user, on the word of an admin or of
// the user who has logged in.
func (tx *Tx) RegisterForUser(r Registration, user UserID, m Method) (*Node, error) {
	self := tx.actor.Kind == ByUser && tx.actor.User == user
	if !self {
		if err := tx.may(Write(AreaDevices), "register devices of others"); err != nil {
			return nil, err
		}
	}
	u := tx.snap.User(user)
	switch {
	case u == nil:
		return nil, Errorf(NotFound, "no user with ID %d", user)
	case u.Status == UserSuspended:
		return nil, Errorf(Denied, "user %s is suspended; an admin can change that with `heddle users restore`", u.Name)
	}
	tags, err := tx.requestedTags(r, user)
	if err == nil {
		err = tx.limitTags(tags, "a device")
	}
	if err != nil {
		return nil, err
	}
	return tx.admit(r, admission{owner: user, tags: tags, method: m, approved: !self})
}

// admittedTags returns the tags of a device that comes with an auth key: those
// of the key, whatever it asks for, if the policy still defines them; or else
// those that the key's owner may give.
func (tx *Tx) admittedTags(r Registration, k *AuthKey) ([]string, error) {
	if len(k.Tags) == 0 {
		return tx.requestedTags(r, k.Owner)
	}
	if _, err := tx.checkTags(k.Tags); err != nil {
		return nil, Errorf(Denied, "auth key %s no longer fits the policy: %s", k.Public, Message(err))
	}
	return k.Tags, nil
}

// requestedTags returns the tags that a device asks for (--advertise-tags) if
// its owner may give them.
func (tx *Tx) requestedTags(r Registration, owner UserID) ([]string, error) {
	tags := CleanHostinfo(r.Hostinfo).RequestTags
	u := tx.snap.User(owner)
	if len(tags) > 0 && tx.userWaits(owner) { // the device would be nobody's, and so wait for nobody's approval
		return nil, Errorf(Denied, "requested tag %s is not permitted: an administrator has to approve user %s first", tags[0], u.Name)
	}
	for _, tag := range tags {
		if !tx.mayTag(u, nil, tag) {
			return nil, Errorf(Denied, "requested tag %s is not permitted: the policy's tagOwners must name the owner of the device, or use an auth key that has the tag", tag)
		}
	}
	return tags, nil
}

// mayTag asks the policy whether a user, or a node with tags, may apply a tag.
func (tx *Tx) mayTag(u *User, tags []string, tag string) bool {
	var pu *policy.User
	if u != nil {
		v := compilerUser(u)
		pu = &v
	}
	return tx.snap.policy.Doc.MayTag(pu, tags, tag)
}

// admission is under which terms a device is admitted.
type admission struct {
	owner     UserID
	tags      []string
	ephemeral bool
	method    Method
	authKey   AuthKeyID
	approved  bool // an admin vouches for the device
}

// admit makes a new node or logs a known one in again, under a new key.
func (tx *Tx) admit(r Registration, a admission) (*Node, error) {
	if len(a.tags) > 0 {
		a.owner = 0
	} else if a.owner == 0 {
		return nil, Errorf(Invalid, "a device needs an owner or tags")
	}
	if r.Key.IsZero() || r.Machine.IsZero() {
		return nil, Errorf(Invalid, "a device needs a machine key and a node key")
	}
	if n := tx.snap.NodeByKey(r.Key); n != nil && n.Machine != r.Machine {
		return nil, Errorf(Denied, "this node key belongs to another device; run `tailscale logout` and log in again")
	}
	if tx.snap.Tombstone(r.Key) != nil {
		return nil, errStaleKey
	}
	host := CleanHostinfo(r.Hostinfo)
	mustWait := tx.mustWait(a)
	n, known, err := tx.reusable(r, a)
	if err != nil {
		return nil, err
	}
	if !known {
		addrs, err := tx.state.alloc.next(&tx.snap, tx.ipPool(a, host))
		if err != nil {
			return nil, err
		}
		tx.snap.lastID.Node++
		n = &Node{
			ID: tx.snap.lastID.Node, StableID: newStableID(), Machine: r.Machine, Addrs: addrs,
			Name:   tx.freeName(labelOf(host), 0),
			Terms:  Terms{Pending: mustWait},
			Origin: Origin{Created: tx.now},
			Report: &Report{Hostinfo: host, CapVer: r.CapVer},
		}
	}
	before := *n
	if known {
		if n.Key != r.Key {
			tx.bury(n, Addrs{})
		}
		n.Report = &Report{
			Disco: n.Report.Disco, Endpoints: n.Report.Endpoints, HomeDERP: n.Report.HomeDERP,
			CapVer: r.CapVer, Hostinfo: host,
		}
		tx.followHostname(n)
	}
	if n.Owner != a.owner || !slices.Equal(n.Tags, a.tags) {
		n.Approved = nil // they were given to another owner; the policy may approve them anew
	}
	switch {
	case tx.userWaits(a.owner): // a device with tags that becomes theirs waits with them
		n.Pending = true
	case !mustWait && a.approved && !(n.Held && a.method == ByAuthKey): // a key does not overrule the admin who holds the device
		n.Pending, n.Held = false, false
	}
	n.Key, n.Owner, n.Tags = r.Key, a.owner, a.tags
	n.Ephemeral = a.ephemeral || r.Ephemeral
	n.Origin.Method, n.Origin.AuthKey = a.method, a.authKey
	tx.setExpiry(n, tx.freshExpiry(n))
	tx.putHard(n)
	if n.Ephemeral && n.Status.streams == 0 {
		tx.after(ephemeralTimer, n.ID, tx.state.opts.EphemeralTimeout)
	}
	if known {
		tx.audit("node.login", n.label(), nodeChanges(&before, n)...)
	} else {
		tx.audit("node.create", n.label(), nodeChanges(&Node{}, n)...)
	}
	return n, nil
}

// mustWait reports whether a new device waits for an admin.
func (tx *Tx) mustWait(a admission) bool {
	return tx.snap.settings.Admission.DeviceApproval && !a.approved || tx.userWaits(a.owner)
}

// userWaits reports whether there is such a user, who waits for approval.
func (tx *Tx) userWaits(id UserID) bool {
	u := tx.snap.User(id)
	return u != nil && u.Status == UserPending
}

// ipPool returns where the policy wants the IPv4 address of a new device to
// come from, nil if it does not care.
func (tx *Tx) ipPool(a admission, host *tailcfg.Hostinfo) []netip.Prefix {
	p := tx.snap.policy
	if !needs(p.Doc, "nodeAttrs ipPool") {
		return nil
	}
	const id = policy.NodeID(1<<63 - 1) // nobody's
	candidate := policy.Node{ID: id, User: policy.UserID(a.owner), Tags: a.tags, Attrs: postureAttrs(host)}
	return p.Compiled.Amend([]policy.Node{candidate}, nil).IPPool(id)
}

// reusable returns a copy of the node that the device is to go on as: the one
// whose key it replaces or, after a logout, the machine's node of the same
// owner. A device that goes from a user to tags or back stays the same node; one that another
// user takes over becomes a new node and the old one is logged out.
func (tx *Tx) reusable(r Registration, a admission) (n *Node, known bool, err error) {
	same := func(n *Node) bool { return n.Owner == a.owner }
	exactly := func(n *Node) bool { return same(n) && slices.Equal(n.Tags, a.tags) }
	for _, k := range []key.NodePublic{r.Key, r.OldKey} {
		n := tx.snap.NodeByKey(k)
		if n == nil || n.Machine != r.Machine {
			continue
		}
		if same(n) || n.Owner == 0 || a.owner == 0 {
			return n.clone(), true, nil
		}
		if k == r.Key {
			return nil, false, errStaleKey // one key never serves two nodes
		}
		old := n.clone()
		tx.setExpiry(old, tx.now)
		tx.putHard(old)
	}
	nodes := tx.snap.NodesByMachine(r.Machine)
	if i := slices.IndexFunc(nodes, exactly); i >= 0 {
		return nodes[i].clone(), true, nil
	}
	return nil, false, nil
}

func (tx *Tx) freshExpiry(n *Node) time.Time {
	life := cmp.Or(tx.snap.settings.Admission.KeyExpiry, tx.state.opts.KeyExpiry)
	if n.Tagged() || n.NoExpiry || life <= 0 {
		return time.Time{}
	}
	return tx.now.Add(life).Truncate(time.Second)
}

// Logout ends a node's login at its own wish: an ephemeral node is deleted, any other's
// key expires. An unknown key, or another machine's, is no error: a client
// cannot forget its profile until it is told that it is logged out.
func (tx *Tx) Logout(m key.MachinePublic, k key.NodePublic) error {
	n := tx.snap.NodeByKey(k)
	if n == nil || n.Machine != m {
		return nil
	}
	if n.Ephemeral {
		tx.removeNode(n, "node.logout")
		return nil
	}
	if n.Status.Expired {
		return nil
	}
	out := n.clone()
	tx.setExpiry(out, tx.now)
	tx.putHard(out)
	tx.audit("node.logout", out.label(), nodeChanges(n, out)...)
	return nil
}

// ShortenExpiry lets a node's own key expire sooner than it would.
func (tx *Tx) ShortenExpiry(m key.MachinePublic, k key.NodePublic, t time.Time) error {
	n := tx.snap.NodeByKey(k)
	if n == nil || n.Machine != m {
		return Errorf(NotFound, "this device is not known here; log in again")
	}
	if !n.Expiry.IsZero() && t.After(n.Expiry) {
		return Errorf(Denied, "a device can only shorten the life of its key; ask an admin to extend it")
	}
	if n.Tagged() {
		return Errorf(Denied, "the key of a device with tags does not expire")
	}
	if t.Equal(n.Expiry) {
		return nil
	}
	if err := checkTime(t); err != nil {
		return err
	}
	out := n.clone()
	tx.setExpiry(out, t)
	tx.putHard(out)
	tx.audit("node.expiry", out.label(), nodeChanges(n, out)...)
	return nil
}

// setExpiry sets when the key of n, which is a draft, expires.
func (tx *Tx) setExpiry(n *Node, t time.Time) {
	n.Expiry = t
	n.Status.refresh(expired(n, tx.now), tx.now)
	n.Status.Expiring = expiring(n, tx.now)
	if t.IsZero() || n.Status.Expired {
		tx.cancel(expiryTimer, n.ID)
	} else {
		tx.at(expiryTimer, n.ID, n.expiryNews(tx.now))
	}
}

// checkTime refuses a time that cannot be written down: of another year than one of four digits.
func checkTime(t time.Time) error {
	if year := t.UTC().Year(); year < 0 || year > 9999 {
		return Errorf(Invalid, "a time in the year %d cannot be meant", year)
	}
	return nil
}

// ExpiryWarning is how long before its key expires a device is warned.
const ExpiryWarning = 3 * 24 * time.Hour

// expiring reports whether the key's end is near and not past.
func expiring(n *Node, now time.Time) bool {
	return !n.Expiry.IsZero() && now.Before(n.Expiry) && !now.Before(n.Expiry.Add(-ExpiryWarning))
}

// lastDay is how long before the end of a key its end is put on record, for those who are told of
// events.
const lastDay = 24 * time.Hour

// expiryNews is when the warning is due, when the last day begins or, after that, when the key expires.
func (n *Node) expiryNews(now time.Time) time.Time {
	for _, early := range []time.Duration{ExpiryWarning, lastDay} {
		if at := n.Expiry.Add(-early); now.Before(at) {
			return at
		}
	}
	return n.Expiry
}

// noteExpiry puts on record that a node's key has expired, or will within a day. That must be
// stored, unlike the state itself, which does not wait for the store.
func (tx *Tx) noteExpiry(id NodeID) {
	n := tx.snap.Node(id)
	switch {
	case n == nil:
	case n.Status.Expired:
		tx.audit("node.key-expired", n.label(), Change{"expiry", timeText(n.Expiry), ""})
	case !tx.now.Before(n.Expiry.Add(-lastDay)):
		tx.audit("node.key-expiring", n.label(), Change{"expiry", timeText(n.Expiry), ""})
	}
}

func expired(n *Node, now time.Time) bool {
	return !n.Expiry.IsZero() && !now.Before(n.Expiry)
}

// newStableID makes an ID in the form that clients know: random, so that two servers never
// give the same.
func newStableID() tailcfg.StableNodeID {
	return tailcfg.StableNodeID("n" + randomText(12) + "CNTRL")
}

// randomText returns n random characters that survive double clicks, file names and any
// case-folding: 5 bits each.
func randomText(n int) string {
	raw := make([]byte, n)
	rand.Read(raw) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw))[:n]
}

// label names a node in the audit log.
func (n *Node) label() string { return fmt.Sprintf("node %d (%s)", n.ID, n.Name) }
