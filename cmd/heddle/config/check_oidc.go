package config

import (
	"fmt"
	"slices"
	"strings"
)

func (c checker) checkProviders() {
	const providers = "oidc.providers"
	if c.broken(providers) {
		return
	}
	names, issuers := make(map[string]int), make(map[string]int)
	for i, p := range c.OIDC.Providers {
		key := fmt.Sprintf("%s[%d]", providers, i)
		fail := func(format string, args ...any) {
			v := c.raw[providers]
			c.problem(v.where, v.line, key, format, args...)
		}
		if first, ok := names[p.Name]; ok {
			fail("%s is the name of number %d of the list, too: choose another", p.Name, first+1)
		}
		names[p.Name] = i
		if first, ok := issuers[p.Issuer]; ok {
			c.warnf("%s (%s) has the issuer of number %d of the list: a person is the same user at both, and may log in if either lets them", key, p.Name, first+1)
		}
		issuers[p.Issuer] = i
		if len(p.AllowedGroups) > 0 && p.GroupsClaim == "" {
			fail("allowed_groups needs groups_claim, which says where the groups stand")
		}
		for _, name := range protocolParams {
			if _, ok := p.Params[name]; ok {
				fail("params: %s is a parameter that heddle sets itself: remove it", name)
			}
		}
		if p.AllowUnverifiedEmail && len(c.OIDC.Owners) > 0 {
			c.warnf("%s (%s) takes e-mail addresses that are not verified: whoever can choose theirs there can become an owner by oidc.owners", key, p.Name)
		}
		if len(p.AllowedDomains)+len(p.AllowedUsers)+len(p.AllowedGroups) == 0 && isPublicIssuer(p.Issuer) {
			c.warnf("%s (%s) lets everybody with an account there in: set allowed_domains, allowed_users or allowed_groups", key, p.Name)
		}
	}
	if len(c.OIDC.Providers) > 0 && len(c.OIDC.Owners) == 0 {
		c.warnf("oidc.owners is not set: the first person who logs in becomes owner")
	}
	if len(c.OIDC.Providers) == 0 && len(c.OIDC.Owners) > 0 {
		c.warnf("oidc.owners is set, but no oidc.providers at which they could log in")
	}
}

// protocolParams are those that a login depends on.
var protocolParams = []string{
	"client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri",
}

// publicIssuers are those where everybody can have an account, by how they begin.
var publicIssuers = []string{
	"https://accounts.google.com",
	"https://appleid.apple.com",
	"https://gitlab.com",
	"https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/", // personal accounts
}

// isPublicIssuer reports whether everybody can have an account at a provider.
func isPublicIssuer(issuer string) bool {
	return slices.ContainsFunc(publicIssuers, func(public string) bool { return strings.HasPrefix(issuer, public) })
}
