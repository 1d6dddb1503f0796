package hosted

import (
	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

type contact struct {
	Email             string `json:"email"`
	NeedsVerification bool   `json:"needsVerification"` // nobody writes to them, and so nobody asks
}

func (s *Server) contactRoutes(r chi.Router) {
	r.Get("/contacts", s.admin(tailnet.Read(tailnet.AreaAccount), func(c *call) (any, error) {
		k := c.snapshot().Settings().Contacts
		return map[string]contact{"account": {Email: k.Account}, "support": {Email: k.Support}, "security": {Email: k.Security}}, nil
	}))
	r.Patch("/contacts/{kind}", s.admin(tailnet.Write(tailnet.AreaAccount), func(c *call) (any, error) {
		var req struct {
			Email *string `json:"email"`
		}
		if err := c.body(&req); err != nil || req.Email == nil {
			return nil, err
		}
		_, err := c.update(func(tx *tailnet.Tx) error { return tx.SetContact(chi.URLParam(c.Request, "kind"), *req.Email) })
		return nil, err
	}))
	r.Post("/contacts/{kind}/resend-verification-email", s.admin(tailnet.Write(tailnet.AreaAccount), func(*call) (any, error) {
		return nil, tailnet.Errorf(tailnet.Invalid, "addresses of contacts are not verified here")
	}))
}
