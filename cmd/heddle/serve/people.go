package serve

import (
	"cmp"

	"heddle/control/login"
	"heddle/control/oidc"
)

// providers are those at which people log in.
func (s *server) providers() *oidc.Providers {
	o := oidc.Options{Redirect: s.cfg.ServerURL.JoinPath(login.CallbackPath), Log: s.Log}
	for _, p := range s.cfg.OIDC.Providers {
		o.Providers = append(o.Providers, oidc.Config{
			Name: p.Name, Label: cmp.Or(p.Label, p.Name), Issuer: p.Issuer,
			ClientID: p.ClientID, ClientSecret: p.ClientSecret.Reveal(), Scopes: p.Scopes, Params: p.Params,
			Allow:                oidc.Allow{Domains: p.AllowedDomains, Users: p.AllowedUsers, Groups: p.AllowedGroups},
			Claims:               oidc.Claims{Groups: p.GroupsClaim, Role: p.RoleClaim},
			AllowUnverifiedEmail: p.AllowUnverifiedEmail,
		})
	}
	return oidc.New(o)
}
