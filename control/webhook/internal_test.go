package webhook

import (
	"encoding/json"
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"heddle/control/tailnet"
)

// The example is worked out by hand: printf '%s' '1663781880.[]' | openssl dgst -sha256 -hmac secret
func TestSign(t *testing.T) {
	got := Sign("secret", time.Unix(1663781880, 0), []byte("[]"))
	const want = "t=1663781880,v1=293c768bee052e0be975e251cfe29aeecc9f0974a12da67fd328003a994b71f4"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestReachable(t *testing.T) {
	allow := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	for ip, want := range map[string]bool{
		"203.0.113.9": true, "8.8.8.8": true, "2606:4700::1": true, "10.1.2.3": true,
		"10.2.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "fd00::1": false, "100.64.0.1": false, "100.100.100.200": false, "224.0.0.1": false,
		"ff02::1": false, "255.255.255.255": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "198.18.0.1": false, "192.0.0.1": false,
	} {
		if got := reachable(netip.MustParseAddr(ip), allow); got != want {
			t.Errorf("%s: %v, want %v", ip, got, want)
		}
	}
}

func TestErrorsHideTheURL(t *testing.T) {
	err := &url.Error{Op: "Post", URL: "https://hooks.example/services/secret", Err: errors.New("connection refused")}
	if got := explain(err); strings.Contains(got, "secret") || !strings.Contains(got, "refused") {
		t.Errorf("%q", got)
	}
}

// The texts fit, and names in them call nobody.
func TestProviders(t *testing.T) {
	events := []event{{Message: "User <!channel> & @everyone was created"}, {Message: strings.Repeat("ö", 5000)}}
	const escaped = "User &lt;!channel&gt; &amp; @everyone was created\nö"
	for provider, want := range map[tailnet.Provider]struct {
		field, begin string
		most         int
	}{
		tailnet.Slack:      {"text", escaped, 4050},
		tailnet.Mattermost: {"text", escaped, 4050},
		tailnet.GoogleChat: {"text", "User ‹!channel› & @everyone was created\nö", 4050},
		tailnet.Discord:    {"content", "User <!channel> & @everyone was created\nö", 2000},
	} {
		body, err := message(provider, events)
		var got map[string]any
		if err == nil {
			err = json.Unmarshal(body, &got)
		}
		text, _ := got[want.field].(string)
		if err != nil || !strings.HasPrefix(text, want.begin) || len([]rune(text)) > want.most {
			t.Errorf("%s: %.60s, %v", provider, body, err)
		}
		mentions, _ := json.Marshal(got["allowed_mentions"])
		if provider == tailnet.Discord && string(mentions) != `{"parse":[]}` || provider != tailnet.Discord && len(got) != 1 {
			t.Errorf("%s: %.60s: mentions %s", provider, body, mentions)
		}
	}
}

// Every action that is an event is one that a webhook can ask for, and has a sentence.
func TestEveryEventIsKnown(t *testing.T) {
	known := map[tailnet.Event]bool{}
	for _, list := range tailnet.EventsOf {
		for _, e := range list {
			known[e] = true
		}
	}
	for action, e := range actions {
		if !known[e] || sentences[e] == "" && e != "policyUpdate" {
			t.Errorf("%s is %s, which is not known", action, e)
		}
	}
}
