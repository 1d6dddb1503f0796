package tailnet

import (
	"net/netip"
	"strings"
	"time"
	"unicode"

	"tailscale.com/net/tsaddr"
)

// An AuditRecord is an audit entry as it is stored.
type AuditRecord struct {
	ID  int64 // numbers the entries of a tailnet from 1, in the order of commits
	Seq Seq   // the commit that it belongs to
	AuditEntry
}

// An AuditQuery selects entries of the audit log. The zero query selects all, the
// newest first.
type AuditQuery struct {
	Actor        string    // a part of the actor's kind, name or address, in any case
	Action       string    // an action such as node.delete, or its first part: node
	Target       string    // a part of the target, in any case
	Since, Until time.Time // from Since on and before Until; zero is open

	// Entries come newest first and below Before (zero: from the newest on), or with
	// Oldest oldest first and above After.
	Oldest        bool
	Before, After int64
	Limit         int // zero means the most that a page holds
}

// maxReason bounds the reason that somebody gives for a change, in bytes; maxTarget what it is done to.
const (
	maxReason = 500
	maxTarget = 600
)

// CleanReason makes a reason fit for a line of text: without control characters, and short.
func CleanReason(s string) string { return clip(s, maxReason) }

// clip makes one line of at most most bytes of text from anywhere.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.TrimSpace(s)
}

// Record keeps an audit entry of what changes nothing in the tailnet itself: a read of
// a secret, an operation on the server. what completes the sentence "… may not".
func (tx *Tx) Record(r Right, what, action, target string, changes ...Change) error {
	if err := tx.may(r, what); err != nil {
		return err
	}
	tx.audit(action, target, changes...)
	return nil
}

// The bounds on what a client wants kept of itself, in bytes.
const (
	maxClientAction  = 100
	maxClientDetails = 1000
)

// ClientReport keeps what a node's client has to put on record, such as why its person
// disconnected it. It is the client's word: nobody has checked it.
func (tx *Tx) ClientReport(id NodeID, action, details string) error {
	n := tx.snap.Node(id)
	if n == nil {
		return Errorf(NotFound, "no node with ID %d", id)
	}
	tx.audit("node.audit", n.label(),
		Change{"action", "", clip(action, maxClientAction)}, Change{"details", "", clip(details, maxClientDetails)})
	return nil
}

// NoteForwarding puts on record that a node offers routes but does not forward IP packets, as its client says.
func (tx *Tx) NoteForwarding(id NodeID) {
	n := tx.snap.Node(id)
	if n == nil {
		return
	}
	var exit, subnet []netip.Prefix
	for _, r := range n.Advertised() {
		if tsaddr.IsExitRoute(r) {
			exit = append(exit, r)
		} else {
			subnet = append(subnet, r)
		}
	}
	if len(exit)+len(subnet) > 0 {
		tx.audit("node.forwarding-off", n.label(), differing(Change{"subnet", "", prefixText(subnet)}, Change{"exitNode", "", prefixText(exit)})...)
	}
}
