package hosted

import (
	"encoding/json"
	"time"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

type attributes struct {
	Attributes map[string]any       `json:"attributes"`
	Expiries   map[string]time.Time `json:"expiries"`
}

func newAttributes(n *tailnet.Node) attributes {
	out := attributes{n.Attributes(), map[string]time.Time{}}
	if n.Attrs != nil {
		for name, a := range *n.Attrs {
			if !a.Expires.IsZero() {
				out.Expiries[name] = a.Expires.UTC()
			}
		}
	}
	return out
}

// attributeRequest has times as clients send them: none, "", or zero for never.
type attributeRequest struct {
	Value   any             `json:"value"`
	Expiry  json.RawMessage `json:"expiry"`
	Comment string          `json:"comment"`
}

func (r attributeRequest) attribute() (tailnet.Attribute, error) {
	a := tailnet.Attribute{Value: r.Value}
	if len(r.Expiry) == 0 || string(r.Expiry) == `""` || string(r.Expiry) == "null" {
		return a, nil
	}
	if err := json.Unmarshal(r.Expiry, &a.Expires); err != nil {
		return a, tailnet.Errorf(tailnet.Invalid, "expiry must be a time such as 2030-01-02T15:04:05Z")
	}
	return a, nil
}

func (s *Server) getAttributes(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	return newAttributes(n), nil
}

func (s *Server) setAttribute(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	var req attributeRequest
	if err := c.body(&req); err != nil {
		return nil, err
	}
	a, err := req.attribute()
	if err != nil {
		return nil, err
	}
	c.actor.Reason = tailnet.CleanReason(req.Comment)
	snap, err := c.update(func(tx *tailnet.Tx) error { return tx.SetAttribute(n.ID, chi.URLParam(c.Request, "key"), a) })
	if err != nil {
		return nil, err
	}
	if n = snap.Node(n.ID); n == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "the device was removed in the same moment")
	}
	return newAttributes(n), nil
}

func (s *Server) deleteAttribute(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	_, err = c.update(func(tx *tailnet.Tx) error { return tx.DeleteAttribute(n.ID, chi.URLParam(c.Request, "key")) })
	return nil, err
}

// maxBatch bounds the devices of one batch, which is one update.
const maxBatch = 1000

// setAttributes changes attributes of many devices, all or none; null takes one away (RFC 7396).
func (s *Server) setAttributes(c *call) (any, error) {
	var req struct {
		Nodes   map[string]map[string]*attributeRequest `json:"nodes"`
		Comment string                                  `json:"comment"`
	}
	if err := c.body(&req); err != nil {
		return nil, err
	}
	if len(req.Nodes) > maxBatch {
		return nil, tailnet.Errorf(tailnet.Invalid, "at most %d devices at a time", maxBatch)
	}
	c.actor.Reason = tailnet.CleanReason(req.Comment)
	_, err := c.update(func(tx *tailnet.Tx) error {
		for id, edits := range req.Nodes {
			n, err := nodeOf(tx.Snapshot(), id)
			if err != nil {
				return err
			}
			for name, edit := range edits {
				if edit == nil {
					if err := tx.DeleteAttribute(n.ID, name); err != nil {
						return err
					}
					continue
				}
				a, err := edit.attribute()
				if err != nil {
					return err
				}
				if err := tx.SetAttribute(n.ID, name, a); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return nil, err
}
