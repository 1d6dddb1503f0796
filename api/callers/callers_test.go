package callers

import (
	"net/http/httptest"
	"testing"
)

func TestSecretOf(t *testing.T) {
	for _, c := range []struct {
		name, method string
		header       map[string]string
		basic        string
		want         string
	}{
		{"bearer", "POST", map[string]string{"Authorization": "Bearer tskey-api-x-y"}, "", "tskey-api-x-y"},
		{"basic", "POST", nil, "tskey-api-x-y", "tskey-api-x-y"},
		{"basic without a name", "POST", nil, "", ""},
		{"basic from a page of the server", "POST", map[string]string{"Sec-Fetch-Site": "same-origin"}, "tskey-api-x-y", "tskey-api-x-y"},
		{"basic from another site", "POST", map[string]string{"Sec-Fetch-Site": "cross-site"}, "tskey-api-x-y", ""},
		{"basic from another origin", "POST", map[string]string{"Origin": "https://evil.example"}, "tskey-api-x-y", ""},
		{"bearer from another site", "POST", map[string]string{"Authorization": "Bearer tskey-api-x-y", "Sec-Fetch-Site": "cross-site"}, "", "tskey-api-x-y"},
		{"nothing", "POST", nil, "", ""},
	} {
		r := httptest.NewRequest(c.method, "https://vpn.example.com/api/v1/user", nil)
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		if c.header["Authorization"] == "" && c.name != "nothing" {
			r.SetBasicAuth(c.basic, "")
		}
		if got, ok := secretOf(r); got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, %v", c.name, got, ok)
		}
	}
}
