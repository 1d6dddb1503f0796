package hosted

import (
	"net/netip"

	"heddle/control/tailnet"
	"heddle/policy"
	"heddle/policy/matches"
)

type preview struct {
	Matches    []previewMatch `json:"matches"`
	Type       string         `json:"type"`
	PreviewFor string         `json:"previewFor"`
}

type previewMatch struct {
	Users      []string `json:"users"`
	Ports      []string `json:"ports"`
	LineNumber int      `json:"lineNumber"`
}

// previewACL answers which rules of a policy are about a user or a port of an address. Without a body it is the
// policy in force.
func (s *Server) previewACL(c *call) (any, error) {
	text, err := c.text()
	if err != nil {
		return nil, err
	}
	snap, query := c.snapshot(), c.URL.Query()
	source := string(text)
	if source == "" {
		source = sourceOf(snap.Policy())
	}
	out := preview{Matches: []previewMatch{}, Type: query.Get("type"), PreviewFor: query.Get("previewFor")}
	about, err := aboutOf(snap, out.Type, out.PreviewFor)
	if err != nil {
		return nil, err
	}
	done, err := c.working()
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := tailnet.PreparePolicy(snap, source)
	if err != nil {
		return nil, err
	}
	for _, m := range about(p.Compiled) {
		out.Matches = append(out.Matches, previewMatch{m.Users, m.Ports, m.Line})
	}
	return out, nil
}

// aboutOf understands what a preview is for.
func aboutOf(snap *tailnet.Snapshot, kind, ref string) (func(*policy.Compiled) []matches.Match, error) {
	switch kind {
	case "user":
		u, err := snap.ParseUserRef(ref)
		if err != nil {
			return nil, err
		}
		return func(c *policy.Compiled) []matches.Match { return matches.Of(c, policy.UserID(u.ID)) }, nil
	case "ipport":
		to, err := netip.ParseAddrPort(ref)
		if err != nil || to.Port() == 0 {
			return nil, tailnet.Errorf(tailnet.Invalid, "previewFor=%.60q is not an address and a port, such as 10.0.0.1:80 or [fd7a::1]:80", ref)
		}
		to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
		return func(c *policy.Compiled) []matches.Match { return matches.To(c, to) }, nil
	}
	return nil, tailnet.Errorf(tailnet.Invalid, "type=%.20q: it must be user, or ipport for an address and a port", kind)
}
