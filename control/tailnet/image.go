package tailnet

import (
	"hash/maphash"
	"maps"
	"strings"

	"heddle/policy"

	"github.com/benbjohnson/immutable"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// fromImage makes the first snapshot. Nodes that were online when the server
// stopped stay so for the grace, as if they had just disconnected: a restart
// must not move routes or show everybody offline.
func (s *State) fromImage(img Image) *Snapshot {
	snap := &Snapshot{
		version:    1,
		lastID:     img.LastID,
		index:      newIndexes(),
		users:      newSorted[UserID, *User](),
		authKeys:   newSorted[AuthKeyID, *AuthKey](),
		apiKeys:    newSorted[APIKeyID, *APIKey](),
		tombstones: immutable.NewMap[key.NodePublic, *Tombstone](hasher[key.NodePublic]{}),
		settings:   img.Settings,
		policy:     img.Policy,
		primaries:  &Primaries{},
		superseded: make(chan struct{}),
	}
	for _, u := range img.Users {
		snap.users.m = snap.users.m.Set(u.ID, u)
	}
	for _, k := range img.AuthKeys {
		snap.setAuthKey(k)
	}
	for _, k := range img.APIKeys {
		snap.setAPIKey(k)
	}
	now := s.opts.Now()
	for _, t := range img.Tombstones {
		snap.setTombstone(t)
		s.timers.setIfUnset(timer{kind: tombstoneTimer}, now)
	}
	for _, n := range img.Nodes {
		n.Status.Alive = n.Status.Online
		n.Status.Expired = expired(n, now)
		snap.nodes = snap.nodes.with(n.ID, n)
		snap.index = snap.index.replace(nil, n)
		if n.Status.Online {
			s.timers.set(timer{offlineTimer, n.ID}, now.Add(max(s.opts.OnlineGrace, restartGrace)))
			s.timers.set(timer{dormantTimer, n.ID}, now.Add(restartGrace))
		}
		if n.Ephemeral {
			s.timers.set(timer{ephemeralTimer, n.ID}, now.Add(s.opts.EphemeralTimeout))
		}
		if !n.Expiry.IsZero() && !n.Status.Expired {
			s.timers.set(timer{expiryTimer, n.ID}, n.Expiry)
		}
		s.alloc.taken(n.Addrs)
	}
	if snap.settings == nil {
		snap.settings = &Settings{DNS: DNS{MagicDNS: true}}
	}
	snap.inputs = inputs{pins: &DNSPins{}, derpMap: &tailcfg.DERPMap{}}
	snap.inputs.dns = effectiveDNS(snap)
	snap.policy = s.loadPolicy(snap.policy)
	snap.policy.Compiled = policy.Compile(snap.policy.Doc, compilerInput(snap))
	snap.primaries = elect(snap.primaries, snap)
	return snap
}

// loadPolicy parses the stored policy. One that this version cannot read must
// not stop the server, and must not open what it closed: everything is denied until it is mended.
func (s *State) loadPolicy(p *Policy) *Policy {
	if p == nil {
		return &Policy{ETag: etag(""), Doc: policy.AllowAll()}
	}
	fresh := *p
	doc, err := policy.Parse([]byte(p.Source))
	if err != nil {
		s.log.Error("the stored policy is not understood: everything is denied until it is set again", "err", err)
		doc, _ = policy.Parse([]byte(`{"acls": []}`))
		fresh.Err = err
	}
	fresh.Doc = doc
	return &fresh
}

// compilerInput is the snapshot as the policy compiler wants it.
func compilerInput(s *Snapshot) policy.Tailnet {
	t := policy.Tailnet{Nodes: make([]policy.Node, 0, s.NumNodes())}
	domains := map[string]bool{}
	for u := range s.Users() {
		t.Users = append(t.Users, compilerUser(u))
		if _, domain, ok := strings.Cut(u.Login(), "@"); ok && domain != "" {
			domains[domain] = true
		}
	}
	for d := range maps.Keys(domains) {
		t.Domains = append(t.Domains, d)
	}
	for n := range s.Nodes() {
		t.Nodes = append(t.Nodes, policy.Node{
			ID:         policy.NodeID(n.ID),
			User:       policy.UserID(n.Owner),
			Tags:       n.Tags,
			IPv4:       n.Addrs.V4,
			IPv6:       n.Addrs.V6,
			Advertised: n.Advertised(),
			Approved:   n.Serves(),
			Attrs:      postureAttrs(n),
		})
	}
	return t
}

func compilerUser(u *User) policy.User {
	return policy.User{ID: policy.UserID(u.ID), Login: u.Login(), Role: u.Role}
}

// postureAttrs are the attributes that a policy's postures may ask about.
func postureAttrs(n *Node) map[string]any {
	h := n.Report.Hostinfo
	attrs := map[string]any{}
	if h.OS != "" {
		attrs["node:os"] = h.OS
	}
	if h.OSVersion != "" {
		attrs["node:osVersion"] = h.OSVersion
	}
	if h.IPNVersion != "" {
		version, _, _ := strings.Cut(h.IPNVersion, "-")
		attrs["node:tsVersion"] = version
	}
	return attrs
}

// hasher hashes any comparable key with a seed of this process, so that keys
// which clients choose cannot be made to collide.
type hasher[K comparable] struct{}

var hashSeed = maphash.MakeSeed()

func (hasher[K]) Equal(a, b K) bool { return a == b }
func (hasher[K]) Hash(k K) uint32   { return uint32(maphash.Comparable(hashSeed, k)) }
