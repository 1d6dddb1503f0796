package tailnet

import (
	"hash/maphash"
	"slices"

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
		heir:       newHeir(),
	}
	for _, u := range img.Users {
		snap.setUser(u)
	}
	for _, k := range img.AuthKeys {
		snap.setAuthKey(k)
	}
	for _, k := range img.APIKeys {
		snap.setAPIKey(k)
	}
	now := s.opts.Now()
	slices.SortFunc(img.Tombstones, func(a, b *Tombstone) int { return a.Ends.Compare(b.Ends) })
	for _, t := range img.Tombstones {
		snap.setTombstone(t)
		s.timers.setIfUnset(timer{kind: tombstoneTimer}, now)
	}
	for _, n := range img.Nodes {
		n.Status.refresh(expired(n, now), n.Status.LastSeen)
		n.Status.Expiring = expiring(n, now)
		n.Status.Alive = n.Status.Online
		n.Report.attrs = postureAttrs(n.Report.Hostinfo)
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
			s.timers.set(timer{expiryTimer, n.ID}, n.expiryNews(now))
		}
		if at := n.custom().news(); !at.IsZero() {
			s.timers.set(timer{attributeTimer, n.ID}, at)
		}
		s.alloc.taken(n.Addrs)
	}
	if snap.settings == nil {
		snap.settings = &Settings{DNS: DNS{MagicDNS: true}}
	}
	snap.policy = s.loadPolicy(snap.policy)
	snap.inputs = inputs{pins: &DNSPins{}, derpSource: &tailcfg.DERPMap{}, sshCheck: s.opts.SSHCheckURL, owners: s.opts.Owners}
	snap.inputs.dns = effectiveDNS(snap)
	snap.inputs.derpMap = effectiveDERPMap(snap)
	snap.policy.Compiled, snap.policy.of = policy.Compile(snap.policy.Doc, snap.PolicyInput()), rosterOf(snap)
	snap.primaries = elect(snap.primaries, snap)
	return snap
}

// hasher hashes any comparable key with a seed of this process, so that keys
// which clients choose cannot be made to collide.
type hasher[K comparable] struct{}

var hashSeed = maphash.MakeSeed()

func (hasher[K]) Equal(a, b K) bool { return a == b }
func (hasher[K]) Hash(k K) uint32   { return uint32(maphash.Comparable(hashSeed, k)) }
