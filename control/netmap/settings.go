package netmap

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"strings"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
)

// seed is of all hashes of cache keys.
var seed = maphash.MakeSeed()

// contentKey names a piece by what it says; the content is compared as well.
type contentKey struct {
	hash uint64
	len  int
}

// intern returns the piece with that text, which it takes over.
func (e *Encoder) intern(plain []byte) *piece {
	key := contentKey{maphash.Bytes(seed, plain), len(plain)}
	if p, ok := e.cache.Get(key).(*piece); ok && bytes.Equal(p.plain, plain) {
		return p
	}
	p := newPiece(e.ids.Add(1), plain)
	e.cache.Put(key, p, p.cost())
	return p
}

// cost is about what a piece takes in memory.
func (p *piece) cost() int { return 200 + len(p.plain) + len(p.z) }

// once returns the piece that encode makes, and keeps it under a key that names what it encodes, by
// where it is. That is kept with it, and takes some times the room of its text.
func (e *Encoder) once(key any, encode func() []byte) *piece {
	if p, ok := e.cache.Get(key).(*piece); ok {
		return p
	}
	p := e.intern(encode())
	e.cache.Put(key, p, 100+4*len(p.plain))
	return p
}

// dnsKey and the like make keys of pointers; as long as they are in the cache
// the pointer's target lives, so another one cannot have the same address.
type (
	dnsKey  struct{ *tailnet.DNS }
	derpKey struct{ *tailcfg.DERPMap }
	sshKey  struct{ *tailcfg.SSHRule }
)

// dns encodes the DNS settings for a node. One that waits for approval is told nothing of the tailnet's names.
func (e *Encoder) dns(s *tailnet.Snapshot, n *tailnet.Node) *piece {
	if n.Pending {
		return e.intern([]byte("{}"))
	}
	return e.once(dnsKey{s.DNS()}, func() []byte { return appendValue(nil, dnsConfig(s.DNS()), "{}") })
}

// dnsConfig translates the settings. Clients route the base domain and the
// reverse zones of the tailnet's ranges to themselves whenever Proxied is set.
func dnsConfig(d *tailnet.DNS) *tailcfg.DNSConfig {
	out := &tailcfg.DNSConfig{Proxied: d.MagicDNS, Routes: map[string][]*dnstype.Resolver{}}
	if d.MagicDNS && d.BaseDomain != "" {
		out.Domains = append(out.Domains, d.BaseDomain)
	}
	out.Domains = append(out.Domains, d.Search...)
	for domain, servers := range d.Split {
		out.Routes[domain] = resolvers(servers) // not nil: an empty list means "answer yourself"
	}
	if d.OverrideLocal {
		out.Resolvers = resolvers(d.Nameservers)
	} else {
		// For systems that cannot send only some domains to us: they need
		// to know where the rest goes.
		out.FallbackResolvers = resolvers(d.Nameservers)
	}
	for _, r := range d.Records {
		if _, err := netip.ParseAddr(r.Value); err != nil {
			continue
		}
		out.ExtraRecords = append(out.ExtraRecords, tailcfg.DNSRecord{Name: strings.TrimSuffix(r.Name, "."), Type: r.Type, Value: r.Value})
	}
	return out
}

func resolvers(servers []string) []*dnstype.Resolver {
	out := make([]*dnstype.Resolver, 0, len(servers))
	for _, addr := range servers {
		out = append(out, &dnstype.Resolver{Addr: addr})
	}
	return out
}

// derp encodes the DERP map. Clients keep what is absent in an update, so that
// scores and regions are always written, even if there are none.
func (e *Encoder) derp(s *tailnet.Snapshot) *piece {
	m := s.DERPMap()
	return e.once(derpKey{m}, func() []byte {
		regions := map[int]*tailcfg.DERPRegion{}
		for id, r := range m.Regions {
			if r != nil { // old clients crash on them
				regions[id] = r
			}
		}
		scores := map[int]float64{}
		if m.HomeParams != nil && m.HomeParams.RegionScore != nil {
			scores = m.HomeParams.RegionScore
		}
		b := append([]byte(nil), `{"HomeParams":{"RegionScore":`...)
		b = appendValue(b, scores, "{}")
		b = append(b, `},"Regions":`...)
		b = appendValue(b, regions, "{}")
		if m.OmitDefaultRegions {
			b = append(b, `,"omitDefaultRegions":true`...)
		}
		return append(b, '}')
	})
}

// ssh encodes the rules of an SSH policy, which nodes have in common; nil is one without rules.
func (e *Encoder) ssh(p *tailcfg.SSHPolicy) []*piece {
	if p == nil {
		return nil
	}
	out := make([]*piece, len(p.Rules))
	for i, r := range p.Rules {
		out[i] = e.once(sshKey{r}, func() []byte { return appendValue(nil, r, `{"principals":null}`) })
	}
	return out
}

// ssh writes an SSH policy.
func (b *builder) ssh(rules []*piece) {
	b.field("SSHPolicy")
	if len(rules) == 0 {
		b.string(`{"rules":null}`)
		return
	}
	b.string(`{"rules":[`)
	for i, r := range rules {
		if i > 0 {
			b.string(",")
		}
		b.add(r)
	}
	b.string("]}")
}

// appendProfile writes what clients show of a user. A user that is not known any more still
// gets a profile: clients fail to answer WhoIs for nodes without.
func appendProfile(b []byte, s *tailnet.Snapshot, id tailnet.UserID) []byte {
	p := tailcfg.UserProfile{ID: tailcfg.UserID(id)}
	u := s.User(id)
	switch {
	case id == tailnet.TaggedDevices:
		p.LoginName, p.DisplayName = "tagged-devices", "Tagged Devices"
	case u == nil:
		p.LoginName, p.DisplayName = "unknown", "Unknown"
	default:
		p.LoginName, p.DisplayName, p.ProfilePicURL = u.Login(), u.Title(), u.PictureURL
	}
	return appendValue(b, &p, "null")
}

func appendProfiles(b []byte, s *tailnet.Snapshot, ids []tailnet.UserID) []byte {
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendProfile(b, s, id)
	}
	return b
}

// profiles writes those of a list that is shared and one more; both may be nil.
func (b *builder) profiles(shared *piece, more []byte) {
	if shared == nil && more == nil {
		return
	}
	b.field("UserProfiles")
	b.string("[")
	if shared != nil {
		b.add(shared)
		if len(shared.plain) > 0 && more != nil {
			b.string(",")
		}
	}
	b.text = append(b.text, more...)
	b.string("]")
}
