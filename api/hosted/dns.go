package hosted

import (
	"maps"
	"slices"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

func (s *Server) dnsRoutes(r chi.Router) {
	read, write := tailnet.Read(tailnet.AreaDNS), tailnet.Write(tailnet.AreaDNS)
	r.Get("/dns/nameservers", s.admin(read, s.getNameservers))
	r.Post("/dns/nameservers", s.admin(write, s.setDNS(func(d *tailnet.DNS, text []byte) error {
		var req struct {
			DNS []string `json:"dns"`
		}
		err := decode(text, &req)
		d.Nameservers = req.DNS
		return err
	}, func(c *call) (any, error) {
		d := c.snapshot().DNS()
		return struct {
			nameservers
			preferences
		}{nameserversOf(d), preferences{d.MagicDNS}}, nil
	})))
	r.Get("/dns/preferences", s.admin(read, s.getPreferences))
	r.Post("/dns/preferences", s.admin(write, s.setDNS(func(d *tailnet.DNS, text []byte) error {
		req := preferences{MagicDNS: d.MagicDNS}
		err := decode(text, &req)
		d.MagicDNS = req.MagicDNS
		return err
	}, s.getPreferences)))
	r.Get("/dns/searchpaths", s.admin(read, s.getSearchPaths))
	r.Post("/dns/searchpaths", s.admin(write, s.setDNS(func(d *tailnet.DNS, text []byte) error {
		var req searchPaths
		err := decode(text, &req)
		d.Search = req.SearchPaths
		return err
	}, s.getSearchPaths)))
	r.Get("/dns/split-dns", s.admin(read, s.getSplit))
	r.Put("/dns/split-dns", s.admin(write, s.setDNS(func(d *tailnet.DNS, text []byte) error {
		d.Split = nil
		return mergeSplit(d, text)
	}, s.getSplit)))
	r.Patch("/dns/split-dns", s.admin(write, s.setDNS(mergeSplit, s.getSplit)))
	r.Get("/dns/configuration", s.admin(read, s.getConfiguration))
	r.Post("/dns/configuration", s.admin(write, s.setDNS(func(d *tailnet.DNS, text []byte) error {
		var req configuration
		if err := decode(text, &req); err != nil {
			return err
		}
		d.MagicDNS, d.OverrideLocal = req.Preferences.MagicDNS, req.Preferences.OverrideLocalDNS
		d.Nameservers, d.Search, d.Split = addresses(req.Nameservers), req.SearchPaths, map[string][]string{}
		for domain, servers := range req.SplitDNS {
			d.Split[domain] = addresses(servers)
		}
		return nil
	}, s.getConfiguration)))
}

type preferences struct {
	MagicDNS bool `json:"magicDNS"`
}

type searchPaths struct {
	SearchPaths []string `json:"searchPaths"`
}

type configuration struct {
	Nameservers []resolver            `json:"nameservers"`
	SplitDNS    map[string][]resolver `json:"splitDNS"`
	SearchPaths []string              `json:"searchPaths"`
	Preferences struct {
		OverrideLocalDNS bool `json:"overrideLocalDNS"`
		MagicDNS         bool `json:"magicDNS"`
	} `json:"preferences"`
}

// A resolver that is to be used with an exit node, too, is used so by heddle's clients anyway.
type resolver struct {
	Address         string `json:"address"`
	UseWithExitNode bool   `json:"useWithExitNode,omitempty"`
}

func addresses(list []resolver) []string {
	out := make([]string, len(list))
	for i, r := range list {
		out[i] = r.Address
	}
	return out
}

func resolvers(list []string) []resolver {
	out := make([]resolver, len(list))
	for i, a := range list {
		out[i] = resolver{Address: a}
	}
	return out
}

// mergeSplit changes domains; null or an empty list takes one out.
func mergeSplit(d *tailnet.DNS, text []byte) error {
	var req map[string][]string
	if err := decode(text, &req); err != nil {
		return err
	}
	split := maps.Clone(d.Split)
	if split == nil {
		split = map[string][]string{}
	}
	for domain, servers := range req {
		if len(servers) == 0 {
			delete(split, domain)
		} else {
			split[domain] = servers
		}
	}
	d.Split = split
	return nil
}

// setDNS changes the settings that the tailnet has now, and answers with what is so then.
func (s *Server) setDNS(edit func(*tailnet.DNS, []byte) error, answer handler) handler {
	return func(c *call) (any, error) {
		text, err := c.text()
		if err != nil {
			return nil, err
		}
		_, err = c.update(func(tx *tailnet.Tx) error {
			d := *tx.Snapshot().DNS()
			d.Records = tx.Snapshot().Settings().DNS.Records // the others are the config's
			if err := edit(&d, text); err != nil {
				return err
			}
			return tx.SetDNS(d)
		})
		if err != nil {
			return nil, err
		}
		return answer(c)
	}
}

type nameservers struct {
	DNS []string `json:"dns"`
}

func nameserversOf(d *tailnet.DNS) nameservers {
	return nameservers{slices.Concat([]string{}, d.Nameservers)}
}

func (s *Server) getNameservers(c *call) (any, error) { return nameserversOf(c.snapshot().DNS()), nil }

func (s *Server) getPreferences(c *call) (any, error) {
	return preferences{c.snapshot().DNS().MagicDNS}, nil
}

func (s *Server) getSearchPaths(c *call) (any, error) {
	return searchPaths{slices.Concat([]string{}, c.snapshot().DNS().Search)}, nil
}

func (s *Server) getSplit(c *call) (any, error) {
	split := c.snapshot().DNS().Split
	if split == nil {
		split = map[string][]string{}
	}
	return split, nil
}

func (s *Server) getConfiguration(c *call) (any, error) {
	d := c.snapshot().DNS()
	out := configuration{Nameservers: resolvers(d.Nameservers), SplitDNS: map[string][]resolver{}, SearchPaths: slices.Concat([]string{}, d.Search)}
	for domain, servers := range d.Split {
		out.SplitDNS[domain] = resolvers(servers)
	}
	out.Preferences.MagicDNS, out.Preferences.OverrideLocalDNS = d.MagicDNS, d.OverrideLocal
	return out, nil
}
