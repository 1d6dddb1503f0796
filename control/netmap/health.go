package netmap

import (
	"slices"

	"heddle/control/tailnet"

	"tailscale.com/tailcfg"
)

// displayMessages is the first capability version whose clients know DisplayMessages; older
// ones know Health. Never are both sent.
const displayMessages tailcfg.CapabilityVersion = 117

// A notice is something that the person at a device should know.
type notice struct {
	id tailcfg.DisplayMessageID
	tailcfg.DisplayMessage
}

// notices returns what the server has to say about a node to its person, in order of ID. It
// depends on the node alone.
func notices(n *tailnet.Node) []notice {
	var out []notice
	if n.Pending && !n.Status.Expired {
		out = append(out, notice{"heddle-approval", tailcfg.DisplayMessage{
			Title:               "This device waits for approval",
			Text:                "An administrator of the network has to approve it: `heddle nodes approve " + n.Name + "`. It connects by itself then.",
			Severity:            tailcfg.SeverityMedium,
			ImpactsConnectivity: true,
		}})
	}
	if n.Status.Expiring && !n.Status.Expired {
		out = append(out, notice{"heddle-key-expiry", tailcfg.DisplayMessage{
			Title: "The login of this device expires soon",
			Text: "It expires on " + n.Expiry.UTC().Format("Monday, 2 January 2006 15:04 MST") + ", and the device is disconnected then. Log in again before: " +
				"`tailscale up --force-reauth`, or \"Reauthenticate\" in the app. An administrator can extend it as well.",
			Severity: tailcfg.SeverityMedium,
		}})
	}
	return out
}

// health writes what a client is to know in its first message. Without notices there is
// nothing to say.
func (b *builder) health(v Viewer, now []notice) {
	if len(now) > 0 {
		b.field(healthField(v))
		b.text = appendHealth(b.text, v, nil, now)
	}
}

func healthField(v Viewer) string {
	if v.CapVer >= displayMessages {
		return "DisplayMessages"
	}
	return "Health"
}

// appendHealth writes what turns the notices that a client has into others.
func appendHealth(b []byte, v Viewer, was, is []notice) []byte {
	if v.CapVer < displayMessages {
		return appendList(b, is, func(b []byte, m notice) []byte { return appendString(b, m.Title+": "+m.Text) })
	}
	b = append(b, '{')
	start := len(b)
	entry := func(id tailcfg.DisplayMessageID) {
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(appendString(b, string(id)), ':')
	}
	for _, m := range was {
		if !slices.ContainsFunc(is, func(o notice) bool { return o.id == m.id }) {
			entry(m.id)
			b = append(b, "null"...)
		}
	}
	for _, m := range is {
		if !slices.Contains(was, m) {
			entry(m.id)
			b = appendValue(b, &m.DisplayMessage, "null")
		}
	}
	return append(b, '}')
}

// healthChange returns what appendHealth writes if the notices differ, else nil.
func healthChange(v Viewer, was, is *tailnet.Node) []byte {
	if was == is {
		return nil
	}
	a, b := notices(was), notices(is)
	if slices.Equal(a, b) {
		return nil
	}
	return appendHealth(nil, v, a, b)
}
