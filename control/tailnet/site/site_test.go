package site_test

import (
	"net/netip"
	"testing"

	"heddle/control/tailnet/site"
)

func TestOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7":           "192.0.2.7/32",
		"::ffff:192.0.2.7":    "192.0.2.7/32",
		"2001:db8:1:2:3:4::9": "2001:db8:1:2::/64",
		"2001:db8:1:2::":      "2001:db8:1:2::/64",
		"fe80::1%eth0":        "fe80::/64",
	} {
		if got := site.Of(netip.MustParseAddr(text)); got.String() != want {
			t.Errorf("%s counts as %s, want %s", text, got, want)
		}
	}
	if got := site.Of(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("an address that is not known counts as %s", got)
	}
}
