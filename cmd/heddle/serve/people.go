package serve

import (
	"cmp"
	"context"

	"heddle/cmd/heddle/config"
	"heddle/control/login"
	"heddle/control/oidc"
	"heddle/control/tailnet"
)

// newProviders makes those at which people log in.
func (s *server) newProviders() *oidc.Providers {
	return oidc.New(oidc.Options{Providers: providers(s.cfg), Redirect: s.cfg.ServerURL.JoinPath(login.CallbackPath), Log: s.Log})
}

func (s *server) prepareProviders(_ context.Context, cfg *config.Config) (change, error) {
	return change{take: func() { s.idp.Use(providers(cfg)) }}, nil
}

func prepareOwners(_ context.Context, cfg *config.Config) (change, error) {
	return change{state: func(tx *tailnet.Tx) error { return tx.SetOwners(cfg.OIDC.Owners) }}, nil
}

func providers(cfg *config.Config) (out []oidc.Config) {
	for _, p := range cfg.OIDC.Providers {
		out = append(out, oidc.Config{
			Name: p.Name, Label: cmp.Or(p.Label, p.Name), Issuer: p.Issuer,
			ClientID: p.ClientID, ClientSecret: p.ClientSecret.Reveal(), Scopes: p.Scopes, Params: p.Params,
			Allow:                oidc.Allow{Domains: p.AllowedDomains, Users: p.AllowedUsers, Groups: p.AllowedGroups},
			Claims:               oidc.Claims{Groups: p.GroupsClaim, Role: p.RoleClaim},
			AllowUnverifiedEmail: p.AllowUnverifiedEmail,
		})
	}
	return out
}
