// Package policy owns the meaning of a tailnet's policy file. Parse turns the
// HuJSON text into a Doc and reports every problem with line and column;
// Compile joins a Doc with the users and nodes of a tailnet; the methods of
// Compiled say what every node is to be sent and may do because of it.
//
// The package is pure: values in, values out. It refuses to know about
// storage, clocks, sockets, sessions and who is connected; what changes by the
// second (which router is primary) is a parameter of the query.
package policy

import (
	"net/netip"
)

// NodeID and UserID have the numbers that the model of the tailnet uses.
type (
	NodeID int64
	UserID int64
)

// Role is a user's role in the tailnet. The autogroups of the same name hold
// the users of that role.
type Role string

// The roles.
const (
	Owner        Role = "owner"
	Admin        Role = "admin"
	ITAdmin      Role = "it-admin"
	NetworkAdmin Role = "network-admin"
	BillingAdmin Role = "billing-admin"
	Auditor      Role = "auditor"
	Member       Role = "member"
)

// User is a user as far as the policy is concerned.
type User struct {
	ID    UserID
	Login string // as policies name the user; compared exactly
	Role  Role
	// Groups are the groups that the identity provider put the user in,
	// without the prefix "group:". A group that the policy defines
	// shadows the synced one.
	Groups []string
}

// Node is a node as far as the policy is concerned.
type Node struct {
	ID         NodeID
	User       UserID   // 0 if and only if the node is tagged
	Tags       []string // "tag:..."
	IPv4, IPv6 netip.Addr
	Advertised []netip.Prefix // what it offers to route
	Approved   []netip.Prefix // the part of it that is in force
	// Attrs are the posture attributes ("node:os", "custom:tier"): strings,
	// bools and float64s. They are read only and compared by identity first.
	Attrs map[string]any
}

// Tailnet is what a policy is compiled against. Compile and Recompile only
// read the slices and maps, and keep references to those in the nodes and
// users: a caller changes them by making new ones.
type Tailnet struct {
	Domains []string // mail domains that belong to the tailnet
	Groups  []string // all groups of the identity provider, also those without a user
	Users   []User
	Nodes   []Node
	// AutoUpdates is the default for device updates; nil: not set.
	AutoUpdates *bool
	// SSHCheckURL is where a node asks about a connection under a "check"
	// rule. The client replaces $SRC_NODE_ID, $SRC_NODE_IP, $DST_NODE_ID,
	// $DST_NODE_IP, $SSH_USER and $LOCAL_USER in it.
	SSHCheckURL string
}
