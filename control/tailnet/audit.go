package tailnet

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// nodeChanges lists what differs between two states of a node, for the audit log.
func nodeChanges(old, n *Node) []Change {
	var out []Change
	add := func(field, from, to string) {
		if from != to {
			out = append(out, Change{field, from, to})
		}
	}
	add("name", old.Name, n.Name)
	add("key", keyText(old.Key), keyText(n.Key))
	add("owner", idText(int64(old.Owner)), idText(int64(n.Owner)))
	add("tags", strings.Join(old.Tags, ","), strings.Join(n.Tags, ","))
	add("addresses", prefixText(old.Addrs.Prefixes()), prefixText(n.Addrs.Prefixes()))
	add("ephemeral", boolText(old.Ephemeral), boolText(n.Ephemeral))
	add("keyExpiryDisabled", boolText(old.NoExpiry), boolText(n.NoExpiry))
	add("needsApproval", boolText(old.Pending), boolText(n.Pending))
	add("expiry", timeText(old.Expiry), timeText(n.Expiry))
	add("approvedRoutes", prefixText(old.Approved), prefixText(n.Approved))
	add("authKey", idText(int64(old.Origin.AuthKey)), idText(int64(n.Origin.AuthKey)))
	return out
}

// userChanges does the same for users.
func userChanges(old, u *User) []Change {
	var out []Change
	for _, c := range []Change{
		{"name", old.Name, u.Name},
		{"displayName", old.DisplayName, u.DisplayName},
		{"email", old.Email, u.Email},
		{"role", string(old.Role), string(u.Role)},
		{"status", string(old.Status), string(u.Status)},
		{"groups", strings.Join(old.Groups, ","), strings.Join(u.Groups, ",")},
		{"identities", identityText(old.Identities), identityText(u.Identities)},
	} {
		if c.From != c.To {
			out = append(out, c)
		}
	}
	return out
}

func admissionChanges(old, a Admission) []Change {
	var out []Change
	for _, c := range []Change{
		{"deviceApproval", boolText(old.DeviceApproval), boolText(a.DeviceApproval)},
		{"userApproval", boolText(old.UserApproval), boolText(a.UserApproval)},
		{"keyExpiry", old.KeyExpiry.String(), a.KeyExpiry.String()},
	} {
		if c.From != c.To {
			out = append(out, c)
		}
	}
	return out
}

func identityText(ids []Identity) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.Issuer + " " + id.Subject
	}
	return strings.Join(texts, ",")
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func keyText(k interface {
	IsZero() bool
	String() string
}) string {
	if k.IsZero() {
		return ""
	}
	return k.String()
}

func idText(id int64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprint(id)
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func prefixText(ps []netip.Prefix) string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}
