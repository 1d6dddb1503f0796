// Package conformance owns the JSON forms of "policy compile": documents of a
// policy and the state of a tailnet in, what every node is sent out. It refuses
// to know any rule of the policy language; the engine is package policy.
package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"heddle/policy"
	"tailscale.com/tailcfg"
)

// maxLine bounds a document; recorded ones have some hundred kilobytes.
const maxLine = 64 << 20

// checkURL stands for the address of the server in ssh rules with a check.
const checkURL = "https://unused/machine/ssh/action/from/$SRC_NODE_ID/to/$DST_NODE_ID?ssh_user=$SSH_USER&local_user=$LOCAL_USER"

type document struct {
	ID      *string `json:"id"`
	Policy  string  `json:"policy"`
	Tailnet tailnet `json:"tailnet"`
}

type tailnet struct {
	Domains []string `json:"domains"`
	Users   []struct {
		Login string `json:"login"`
		Role  string `json:"role"`
	} `json:"users"`
	Nodes    []inNode `json:"nodes"`
	Settings struct {
		AutoUpdates *bool `json:"auto_updates"`
	} `json:"settings"`
}

type inNode struct {
	ID         int64          `json:"id"`
	Name       string         `json:"name"`
	User       string         `json:"user"`
	Tags       []string       `json:"tags"`
	IPv4       netip.Addr     `json:"ipv4"`
	IPv6       netip.Addr     `json:"ipv6"`
	Advertised []netip.Prefix `json:"advertised_routes"`
	Approved   []netip.Prefix `json:"approved_routes"`
}

type answer struct {
	ID    *string                   `json:"id,omitempty"`
	Error *string                   `json:"error"`
	Nodes map[string]*outNode       `json:"nodes,omitempty"`
	Auto  map[string][]netip.Prefix `json:"auto_approved_routes,omitempty"`
}

type outNode struct {
	PacketFilter []tailcfg.FilterRule `json:"packet_filter"`
	SSHRules     []*tailcfg.SSHRule   `json:"ssh_rules,omitempty"`
	CapMap       tailcfg.NodeCapMap   `json:"cap_map"`
	Addresses    []netip.Prefix       `json:"addresses,omitempty"`
	Peers        map[string]outPeer   `json:"peers"`
}

type outPeer struct {
	Routes    []netip.Prefix     `json:"routes,omitempty"`
	Addresses []netip.Prefix     `json:"addresses,omitempty"`
	CapMap    tailcfg.NodeCapMap `json:"cap_map,omitempty"`
}

// Run answers every document of in, one per line, with one line of out. A
// policy that is rejected is an answer; the error is about reading, writing,
// and lines that are no document.
func Run(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 1<<20), maxLine)
	w := bufio.NewWriter(out)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	var bad []error
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var d document
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			bad = append(bad, fmt.Errorf("line %d: %w", n, err))
			msg := "not a document: " + err.Error()
			if err := enc.Encode(answer{ID: d.ID, Error: &msg}); err != nil {
				return err
			}
			continue
		}
		if err := enc.Encode(compile(&d)); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), w.Flush(), errors.Join(bad...))
}

func compile(d *document) answer {
	a := answer{ID: d.ID}
	c, err := accept(d)
	if err != nil {
		msg := err.Error()
		a.Error = &msg
		return a
	}
	primaries := map[netip.Prefix]policy.NodeID{}
	for _, n := range d.Tailnet.Nodes {
		for _, p := range n.Approved {
			if id, ok := primaries[p]; !ok || policy.NodeID(n.ID) < id {
				primaries[p] = policy.NodeID(n.ID)
			}
		}
	}
	primary := func(p netip.Prefix) policy.NodeID { return primaries[p] }
	a.Nodes, a.Auto = map[string]*outNode{}, map[string][]netip.Prefix{}
	for i := range d.Tailnet.Nodes {
		n := &d.Tailnet.Nodes[i]
		a.Nodes[n.Name] = sent(c, d.Tailnet.Nodes, n, primary)
		for _, p := range n.Advertised {
			if c.AutoApproves(policy.NodeID(n.ID), p) {
				a.Auto[n.Name] = append(a.Auto[n.Name], p)
			}
		}
	}
	return a
}

// accept does with the policy what the server does before it stores one.
func accept(d *document) (*policy.Compiled, error) {
	doc, err := policy.Parse([]byte(d.Policy))
	if err != nil {
		return nil, err
	}
	t := policy.Tailnet{Domains: d.Tailnet.Domains, AutoUpdates: d.Tailnet.Settings.AutoUpdates, SSHCheckURL: checkURL}
	ids := map[string]policy.UserID{}
	for i, u := range d.Tailnet.Users {
		ids[u.Login] = policy.UserID(i + 1)
		t.Users = append(t.Users, policy.User{ID: policy.UserID(i + 1), Login: u.Login, Role: policy.Role(u.Role)})
	}
	for _, n := range d.Tailnet.Nodes {
		t.Nodes = append(t.Nodes, policy.Node{
			ID: policy.NodeID(n.ID), User: ids[n.User], Tags: n.Tags, IPv4: n.IPv4, IPv6: n.IPv6,
			Advertised: n.Advertised, Approved: n.Approved,
		})
	}
	c := policy.Compile(doc, t)
	if err := c.Check(); err != nil {
		return nil, err
	}
	return c, c.RunTests()
}

func sent(c *policy.Compiled, nodes []inNode, n *inNode, primary func(netip.Prefix) policy.NodeID) *outNode {
	id := policy.NodeID(n.ID)
	out := &outNode{PacketFilter: []tailcfg.FilterRule{}, CapMap: c.Caps(id), Addresses: addresses(n, c.IPv4Off(id)), Peers: map[string]outPeer{}}
	for _, g := range c.Filter(id) {
		out.PacketFilter = append(out.PacketFilter, g.Rules...)
	}
	if ssh := c.SSH(id); ssh != nil {
		out.SSHRules = ssh.Rules
	}
	for i := range nodes {
		peer := &nodes[i]
		pid := policy.NodeID(peer.ID)
		if pid == id || !c.Visible(c.Class(id), c.Class(pid)) {
			continue
		}
		out.Peers[peer.Name] = outPeer{
			Routes:    c.Routes(id, pid, primary),
			Addresses: addresses(peer, c.IPv4Off(id) || c.IPv4Off(pid)),
			CapMap:    c.PeerCaps(id, pid),
		}
	}
	return out
}

func addresses(n *inNode, only6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range []netip.Addr{n.IPv4, n.IPv6} {
		if a.IsValid() && !(only6 && a.Is4()) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}
