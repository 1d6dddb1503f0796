package tailnet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// nodeChanges lists what differs between two states of a node, for the audit log.
func nodeChanges(old, n *Node) []Change {
	return differing(
		Change{"stableID", string(old.StableID), string(n.StableID)},
		Change{"machine", keyText(old.Machine), keyText(n.Machine)},
		Change{"name", old.Name, n.Name},
		Change{"nameFixed", boolText(old.Fixed), boolText(n.Fixed)},
		Change{"key", keyText(old.Key), keyText(n.Key)},
		Change{"owner", idText(int64(old.Owner)), idText(int64(n.Owner))},
		Change{"tags", strings.Join(old.Tags, ","), strings.Join(n.Tags, ",")},
		Change{"addresses", prefixText(old.Addrs.Prefixes()), prefixText(n.Addrs.Prefixes())},
		Change{"ephemeral", boolText(old.Ephemeral), boolText(n.Ephemeral)},
		Change{"keyExpiryDisabled", boolText(old.NoExpiry), boolText(n.NoExpiry)},
		Change{"needsApproval", boolText(old.Pending), boolText(n.Pending)},
		Change{"held", boolText(old.Held), boolText(n.Held)},
		Change{"expiry", timeText(old.Expiry), timeText(n.Expiry)},
		Change{"approvedRoutes", prefixText(old.Approved), prefixText(n.Approved)},
		Change{"authKey", idText(int64(old.Origin.AuthKey)), idText(int64(n.Origin.AuthKey))},
	)
}

// authKeyChanges does the same for auth keys.
func authKeyChanges(old, k *AuthKey) []Change {
	return differing(
		Change{"owner", idText(int64(old.Owner)), idText(int64(k.Owner))},
		Change{"tags", strings.Join(old.Tags, ","), strings.Join(k.Tags, ",")},
		Change{"reusable", boolText(old.Reusable), boolText(k.Reusable)},
		Change{"ephemeral", boolText(old.Ephemeral), boolText(k.Ephemeral)},
		Change{"preapproved", boolText(old.Approved), boolText(k.Approved)},
		Change{"description", old.Description, k.Description},
		Change{"expires", timeText(old.Expires), timeText(k.Expires)},
		Change{"revoked", timeText(old.Revoked), timeText(k.Revoked)},
	)
}

// apiKeyChanges does the same for API keys.
func apiKeyChanges(old, k *APIKey) []Change {
	return differing(
		Change{"owner", idText(int64(old.Owner)), idText(int64(k.Owner))},
		Change{"role", string(old.Role), string(k.Role)},
		Change{"scopes", strings.Join(old.Scopes, " "), strings.Join(k.Scopes, " ")},
		Change{"description", old.Description, k.Description},
		Change{"expires", timeText(old.Expires), timeText(k.Expires)},
		Change{"revoked", timeText(old.Revoked), timeText(k.Revoked)},
	)
}

// maxChange bounds one value in the audit log: a tailnet may have thousands of DNS records, and a device of routes.
const maxChange = 4 << 10

// dnsChanges does the same for DNS settings.
func dnsChanges(old, d *DNS) []Change {
	return differing(
		Change{"magicDNS", boolText(old.MagicDNS), boolText(d.MagicDNS)},
		Change{"overrideLocal", boolText(old.OverrideLocal), boolText(d.OverrideLocal)},
		Change{"nameservers", strings.Join(old.Nameservers, ","), strings.Join(d.Nameservers, ",")},
		Change{"split", splitText(old.Split), splitText(d.Split)},
		Change{"search", strings.Join(old.Search, ","), strings.Join(d.Search, ",")},
		Change{"records", recordText(old.Records), recordText(d.Records)},
	)
}

func splitText(split map[string][]string) string {
	var texts []string
	for _, domain := range slices.Sorted(maps.Keys(split)) {
		texts = append(texts, domain+"="+strings.Join(split[domain], "+"))
	}
	return strings.Join(texts, ",")
}

func recordText(records []DNSRecord) string {
	texts := make([]string, len(records))
	for i, r := range records {
		texts[i] = r.Name + " " + r.Type + " " + r.Value
	}
	return strings.Join(texts, ",")
}

// differing returns the changes that are any, cut to what fits.
func differing(all ...Change) []Change {
	var out []Change
	for _, c := range all {
		if c.From != c.To {
			out = append(out, Change{c.Field, clip(c.From, maxChange), clip(c.To, maxChange)})
		}
	}
	return out
}

// userChanges does the same for users.
func userChanges(old, u *User) []Change {
	return differing(
		Change{"name", old.Name, u.Name},
		Change{"displayName", old.DisplayName, u.DisplayName},
		Change{"email", old.Email, u.Email},
		Change{"pictureURL", old.PictureURL, u.PictureURL},
		Change{"role", string(old.Role), string(u.Role)},
		Change{"status", string(old.Status), string(u.Status)},
		Change{"groups", strings.Join(old.Groups, ","), strings.Join(u.Groups, ",")},
		Change{"identities", identityText(old.Identities), identityText(u.Identities)},
	)
}

func admissionChanges(old, a Admission) []Change {
	return differing(
		Change{"deviceApproval", boolText(old.DeviceApproval), boolText(a.DeviceApproval)},
		Change{"userApproval", boolText(old.UserApproval), boolText(a.UserApproval)},
		Change{"keyExpiry", old.KeyExpiry.String(), a.KeyExpiry.String()},
	)
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
