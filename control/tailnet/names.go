package tailnet

import (
	"strconv"
	"strings"

	"tailscale.com/tailcfg"
	"tailscale.com/util/dnsname"
)

// maxLabel is the length of a DNS label (RFC 1035 §2.3.4).
const maxLabel = 63

// labelOf makes a DNS label of what a device calls itself: letters, digits and hyphens in
// lower case, as the hosted service does. A device without a name worth
// keeping is called by its OS.
func labelOf(h *tailcfg.Hostinfo) string {
	host, _, _ := strings.Cut(h.Hostname, ".local")
	label := strings.ToLower(dnsname.SanitizeHostname(host))
	if len(label) > maxLabel {
		label = strings.Trim(label[:maxLabel], "-")
	}
	if label != "" && label != "localhost" && dnsname.ValidLabel(label) == nil {
		if isNumber(label) {
			return "device-" + label // a bare number would be taken for an ID
		}
		return label
	}
	if os := strings.ToLower(dnsname.SanitizeLabel(h.OS)); os != "" && len(os) < maxLabel {
		return os + "-device"
	}
	return "device"
}

// freeName returns label, or label-1, label-2, … whichever no other node than
// id has.
func (tx *Tx) freeName(label string, id NodeID) string {
	for i := 0; ; i++ {
		name := label
		if i > 0 {
			suffix := "-" + strconv.Itoa(i)
			name = strings.TrimRight(label[:min(len(label), maxLabel-len(suffix))], "-") + suffix
		}
		if n := tx.snap.NodeByName(name); n == nil || n.ID == id {
			return name
		}
	}
}

// followHostname renames n, which is a draft, after its OS hostname, unless an
// admin chose its name or the name is of that hostname already (laptop-1 stays
// when laptop is gone). It reports whether the name changed.
func (tx *Tx) followHostname(n *Node) bool {
	if n.Fixed {
		return false
	}
	label := labelOf(n.Report.Hostinfo)
	if base, no, ok := cutLast(n.Name, "-"); n.Name == label || ok && base == label && strings.Trim(no, "0123456789") == "" {
		return false
	}
	n.Name = tx.freeName(label, n.ID)
	return true
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// checkName returns a name that an admin chose in lower case if it is a DNS label.
func checkName(name string) (string, error) {
	name = strings.ToLower(strings.TrimSpace(name))
	if err := dnsname.ValidLabel(name); err != nil {
		return "", Errorf(Invalid, "name %q: %v; names have letters, digits and hyphens, at most 63", name, err)
	}
	if isNumber(name) {
		return "", Errorf(Invalid, "name %q: only digits would be taken for an ID", name)
	}
	return name, nil
}

func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }
