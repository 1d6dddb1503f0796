package hosted

import (
	"time"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

type webhook struct {
	EndpointID       string          `json:"endpointId"`
	EndpointURL      string          `json:"endpointUrl"`
	ProviderType     string          `json:"providerType"`
	CreatorLoginName string          `json:"creatorLoginName"`
	Created          time.Time       `json:"created"`
	LastModified     time.Time       `json:"lastModified"`
	Subscriptions    []tailnet.Event `json:"subscriptions"`
	Secret           *string         `json:"secret,omitempty"` // only when it is made or changed
}

// newWebhook leaves the path of the URL out for who may not change the webhook.
func (c *call) newWebhook(w *tailnet.Webhook, secret string) webhook {
	out := webhook{
		EndpointID: w.ID, EndpointURL: w.URL, ProviderType: string(w.Provider), CreatorLoginName: w.Creator,
		Created: w.Created.UTC(), LastModified: w.Changed.UTC(), Subscriptions: w.Events,
	}
	if !c.snapshot().Can(c.actor, tailnet.Write(tailnet.AreaWebhooks)) {
		out.EndpointURL = w.Host()
	}
	if secret != "" {
		out.Secret = &secret
	}
	return out
}

// webhookRoutes are those that do not name the tailnet.
func (s *Server) webhookRoutes(r chi.Router) {
	write := tailnet.Write(tailnet.AreaWebhooks)
	r.Route("/webhooks/{webhook}", func(r chi.Router) {
		r.Get("/", s.admin(tailnet.Read(tailnet.AreaWebhooks), s.getWebhook))
		r.Patch("/", s.admin(write, s.setWebhook))
		r.Delete("/", s.admin(write, func(c *call) (any, error) {
			_, err := c.update(func(tx *tailnet.Tx) error { return tx.DeleteWebhook(chi.URLParam(c.Request, "webhook")) })
			return nil, err
		}))
		r.Post("/test", s.admin(write, func(c *call) (any, error) {
			_, err := c.update(func(tx *tailnet.Tx) error { return tx.TestWebhook(chi.URLParam(c.Request, "webhook")) })
			return nil, err
		}))
		r.Post("/rotate", s.admin(write, func(c *call) (any, error) {
			return c.webhook(func(tx *tailnet.Tx) (string, *tailnet.Webhook, error) {
				return tx.RotateWebhook(chi.URLParam(c.Request, "webhook"))
			})
		}))
	})
}

// webhook runs a change that makes or changes a webhook, and answers with it.
func (c *call) webhook(change func(*tailnet.Tx) (string, *tailnet.Webhook, error)) (any, error) {
	var secret string
	var w *tailnet.Webhook
	_, err := c.update(func(tx *tailnet.Tx) (err error) {
		secret, w, err = change(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.newWebhook(w, secret), nil
}

func (s *Server) listWebhooks(c *call) (any, error) {
	list := []webhook{}
	for _, w := range c.snapshot().Settings().Webhooks {
		list = append(list, c.newWebhook(w, ""))
	}
	return map[string][]webhook{"webhooks": list}, nil
}

func (s *Server) getWebhook(c *call) (any, error) {
	id := chi.URLParam(c.Request, "webhook")
	w := c.snapshot().Webhook(id)
	if w == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "there is no webhook with the ID %.40q", id)
	}
	return c.newWebhook(w, ""), nil
}

type webhookRequest struct {
	EndpointURL   string           `json:"endpointUrl"`
	ProviderType  tailnet.Provider `json:"providerType"`
	Subscriptions []tailnet.Event  `json:"subscriptions"`
}

func (s *Server) createWebhook(c *call) (any, error) {
	var req webhookRequest
	if err := c.body(&req); err != nil {
		return nil, err
	}
	return c.webhook(func(tx *tailnet.Tx) (string, *tailnet.Webhook, error) {
		return tx.CreateWebhook(tailnet.Webhook{URL: req.EndpointURL, Provider: req.ProviderType, Events: req.Subscriptions})
	})
}

func (s *Server) setWebhook(c *call) (any, error) {
	var req webhookRequest
	if err := c.body(&req); err != nil {
		return nil, err
	}
	return c.webhook(func(tx *tailnet.Tx) (string, *tailnet.Webhook, error) {
		w, err := tx.SetWebhookEvents(chi.URLParam(c.Request, "webhook"), req.Subscriptions)
		return "", w, err
	})
}
