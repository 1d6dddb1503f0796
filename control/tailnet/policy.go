package tailnet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"heddle/policy"

	"tailscale.com/tailcfg"
)

// maxPolicy bounds the policy file.
const maxPolicy = 4 << 20

// A PreparedPolicy is a policy that was read, compiled and tested against a
// snapshot, so that the writer need not do it. It is immutable.
type PreparedPolicy struct {
	Source   string
	Doc      *policy.Doc
	Compiled *policy.Compiled // with the users and nodes of the snapshot
	Warnings policy.Errors    // what it asks for and does not get yet, in the order of the text; nil if there is nothing
	of       roster
	base     *Policy // in force in the snapshot
}

// refused are the features that heddle refuses, and promised those that it
// takes although they do not do all they should: they then allow less. Each
// has its reason. The names are those of policy.Doc.Features.
var (
	refused = map[string]string{
		"nodeAttrs funnel": "Funnel needs relays on the Internet that take visitors in, which heddle has none of",
	}
	promised = map[string]string{
		"attrConfig broadcastToPeers": "the values of attributes are for the policy alone here, and no device is told those of others",
		"autoApprovers services":      "there are no services (svc:) here yet, so that there is nothing to approve",
	}
)

// A PolicyVersion tells of a policy that is or was in force.
type PolicyVersion struct {
	Revision Seq
	ETag     string
	Updated  time.Time
	By       string
	Size     int // of the text, in bytes
}

// PreparePolicy reads source, in HuJSON, compiles it with the users and nodes
// of a snapshot, and runs the policy's own tests. The cause of its error is a
// policy.Errors with all problems and their places. It may take a second of CPU.
func PreparePolicy(s *Snapshot, source string) (*PreparedPolicy, error) {
	if len(source) > maxPolicy {
		return nil, Errorf(Invalid, "the policy has %d bytes; the most is %d", len(source), maxPolicy)
	}
	if strings.ContainsRune(source, 0) {
		return nil, Errorf(Invalid, "the policy holds a byte that is zero, which no text has") // and PostgreSQL does not store
	}
	doc, bad := policy.ParseStored([]byte(source)) // what is left of a bad one has more problems to tell of
	in := s.PolicyInput()
	in.Domains = doc.Domains() // heddle has no list of its own domains: it takes all that logins may have
	p := &PreparedPolicy{Source: source, Doc: doc, Compiled: policy.Compile(doc, in), of: rosterOf(s), base: s.policy}
	errors.As(doc.Refuse(promised), &p.Warnings)
	p.Warnings = append(p.Warnings, unknownUsers(doc, in.Users)...)
	problems := []error{bad, doc.Refuse(refused), p.Compiled.Check(), checkDERPMap(doc.DERPMap())}
	if bad == nil { // of a part of the rules tests prove nothing
		problems = append(problems, p.Compiled.RunTests())
	}
	if err := errors.Join(problems...); err != nil {
		return nil, policyError(err)
	}
	slices.SortStableFunc(p.Warnings, byPlace)
	return p, nil
}

func byPlace(a, b *policy.Error) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

// policyError makes the error that tells of all problems that err is made of.
func policyError(err error) error {
	var all policy.Errors
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, part := range several.Unwrap() {
			switch part := part.(type) {
			case policy.Errors:
				all = append(all, part...)
			case *policy.Error:
				all = append(all, part)
			}
		}
	}
	if len(all) == 0 {
		return &Error{Code: Invalid, Msg: "the policy is not valid: " + err.Error(), Err: err}
	}
	slices.SortStableFunc(all, byPlace)
	return &Error{Code: Invalid, Msg: "the policy is not valid: " + all.Error(), Err: all}
}

// ErrStale says that a prepared policy was tested with other users or nodes than there are
// now. It is to be prepared again.
var ErrStale = Errorf(Conflict, "users or nodes changed while the policy was tested with them; set it again")

// maxPrepares bounds how often PutPolicy prepares a policy that goes stale:
// each may take seconds of CPU.
const maxPrepares = 4

// PutPolicy prepares a policy and sets it, as SetPolicy does; again, if it is
// stale by then. It returns ErrStale if the tailnet changes faster than that.
func (s *State) PutPolicy(ctx context.Context, actor Actor, source, ifMatch string) (*PreparedPolicy, *Snapshot, error) {
	for n := 1; ; n++ {
		p, err := PreparePolicy(s.Snapshot(), source)
		if err != nil {
			return nil, nil, err
		}
		snap, err := s.Update(ctx, actor, func(tx *Tx) error { return tx.SetPolicy(p, ifMatch) })
		switch {
		case err == nil:
			return p, snap, nil
		case n == maxPrepares || !errors.Is(err, ErrStale):
			return nil, nil, err
		}
	}
}

// SetPolicy puts a prepared policy in force. If users or nodes have changed
// since it was prepared, it is compiled with them; but its tests never run in an
// update, so that one that has any is refused with ErrStale then. ifMatch, if not empty, must be the
// ETag of the policy that it replaces. The policy that is in force already changes nothing.
func (tx *Tx) SetPolicy(p *PreparedPolicy, ifMatch string) error {
	if err := tx.may(Write(AreaPolicy), "change the policy"); err != nil {
		return err
	}
	old := tx.snap.policy
	if err := old.Matches(ifMatch); err != nil {
		return err
	}
	compiled := p.Compiled
	if p.base != old || tx.dirtyPolicy {
		compiled = p.of.follow(compiled, &tx.snap)
		if compiled != p.Compiled && compiled.HasTests() {
			return ErrStale
		}
	}
	if p.Source == old.Source && old.Err == nil {
		return nil
	}
	fresh := &Policy{
		Source: p.Source, ETag: etag(p.Source), Updated: tx.now, By: tx.actor.String(), Revision: tx.state.seq + 1,
		Doc: p.Doc, Compiled: compiled, of: rosterOf(&tx.snap),
	}
	tx.snap.policy = fresh
	tx.delta.Policy = fresh
	tx.dirtyPolicy = false // compiled is of the draft as it stands
	tx.dirtyNodes = map[NodeID]bool{}
	for n := range tx.snap.Nodes() {
		if len(n.Advertised()) > 0 {
			tx.dirtyNodes[n.ID] = true
		}
	}
	tx.refreshDERPMap()
	tx.audit("policy.set", "policy", Change{"etag", old.ETag, fresh.ETag})
	return nil
}

// Matches returns an error, Changed, unless the policy has that ETag. An empty
// one matches any policy.
func (p *Policy) Matches(ifMatch string) error {
	if ifMatch != "" && strings.Trim(ifMatch, `"`) != p.ETag {
		return Errorf(Changed, "the policy has changed meanwhile (it is %s now); fetch it again with `heddle policy get`", p.ETag)
	}
	return nil
}

// needs reports whether a policy uses a feature.
func needs(doc *policy.Doc, feature string) bool {
	for _, f := range doc.Features() {
		if f.Name == feature {
			return true
		}
	}
	return false
}

func etag(source string) string {
	sum := sha256.Sum256([]byte(source))
	return hex.EncodeToString(sum[:])
}

// loadPolicy parses the stored policy. One that this version does not
// understand in full must not stop the server, and must not open what it
// closed: what is not understood is left out, which allows less, until it is mended.
func (s *State) loadPolicy(p *Policy) *Policy {
	if p == nil {
		return &Policy{ETag: etag(""), Doc: policy.AllowAll()}
	}
	fresh := *p
	var err error
	fresh.Doc, err = policy.ParseStored([]byte(p.Source))
	if err != nil {
		fresh.Err = policyError(err)
		s.log.Error("the stored policy has parts that this version refuses: they are left out, so that less is allowed, until it is set again",
			"revision", p.Revision, "err", err)
	}
	return &fresh
}

// roster is whom a policy was compiled with.
type roster struct {
	nodes nodeTable
	users sorted[UserID, *User]
}

func rosterOf(s *Snapshot) roster { return roster{s.nodes, s.users} }

// follow brings c, which was compiled with r, in line with a snapshot. Its cost is
// that of what changed.
func (r roster) follow(c *policy.Compiled, s *Snapshot) *policy.Compiled {
	if r.users.m != s.users.m && !sameUsersToPolicy(r.users, s.users) {
		return c.Recompile(s.PolicyInput())
	}
	var changed []policy.Node
	var gone []policy.NodeID
	for ch := range s.nodes.changedSince(r.nodes) {
		was, is := ch.Old != nil && !ch.Old.Pending, ch.New != nil && !ch.New.Pending
		switch {
		case was && !is:
			gone = append(gone, policy.NodeID(ch.Old.ID))
		case is && !(was && sameToPolicy(ch.Old, ch.New)):
			changed = append(changed, compilerNode(ch.New))
		}
	}
	if len(changed)+len(gone) == 0 {
		return c
	}
	return c.Amend(changed, gone)
}

// PolicyInput returns the tailnet as the policy compiler wants it. The caller owns its
// slices.
func (s *Snapshot) PolicyInput() policy.Tailnet {
	t := policy.Tailnet{
		Nodes: make([]policy.Node, 0, s.NumNodes()), Users: make([]policy.User, 0, s.users.m.Len()),
		SSHCheckURL: s.inputs.sshCheck,
	}
	groups := map[string]bool{}
	for u := range s.Users() {
		t.Users = append(t.Users, compilerUser(u))
		for _, g := range u.Groups {
			groups[g] = true
		}
	}
	t.Groups = slices.Sorted(maps.Keys(groups))
	for n := range s.Nodes() {
		if !n.Pending {
			t.Nodes = append(t.Nodes, compilerNode(n))
		}
	}
	return t
}

func compilerNode(n *Node) policy.Node {
	attrs := n.Report.attrs
	if n.Attrs != nil {
		attrs = n.Attributes()
	}
	return policy.Node{
		ID:         policy.NodeID(n.ID),
		User:       policy.UserID(n.Owner),
		Tags:       n.Tags,
		IPv4:       n.Addrs.V4,
		IPv6:       n.Addrs.V6,
		Advertised: n.Advertised(),
		Approved:   n.Serves(),
		Attrs:      attrs,
	}
}

func compilerUser(u *User) policy.User {
	return policy.User{ID: policy.UserID(u.ID), Login: u.Login(), Role: u.Role, Groups: u.Groups}
}

// sameUserToPolicy reports whether the policy's compiler takes a and b, states of one user,
// for the same; either may be nil.
func sameUserToPolicy(a, b *User) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Login() == b.Login() && a.Role == b.Role && slices.Equal(a.Groups, b.Groups)
}

func sameUsersToPolicy(a, b sorted[UserID, *User]) bool {
	if a.m.Len() != b.m.Len() {
		return false
	}
	for u := range a.all() {
		if !sameUserToPolicy(u, b.get(u.ID)) {
			return false
		}
	}
	return true
}

// postureAttrs are the attributes that a policy's postures may ask about.
// Clients write some names of systems with capitals, policies write none.
func postureAttrs(h *tailcfg.Hostinfo) map[string]any {
	attrs := map[string]any{"node:tsAutoUpdate": h.AllowsUpdate}
	if h.OS != "" {
		attrs["node:os"] = strings.ToLower(h.OS)
	}
	if h.OSVersion != "" {
		attrs["node:osVersion"] = h.OSVersion
	}
	if h.IPNVersion != "" {
		short, _, _ := strings.Cut(h.IPNVersion, "-")
		attrs["node:tsVersion"] = short
		attrs["node:tsReleaseTrack"] = "stable"
		if unstable(short) {
			attrs["node:tsReleaseTrack"] = "unstable"
		}
	}
	if encrypted, ok := h.StateEncrypted.Get(); ok {
		attrs["node:tsStateEncrypted"] = encrypted
	}
	return attrs
}

// unstable reports whether a version such as 1.91.3 is of the unstable track:
// those have an odd second number.
func unstable(version string) bool {
	_, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return err == nil && n%2 == 1
}
