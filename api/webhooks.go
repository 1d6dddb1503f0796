package api

import (
	"context"
	"time"

	"heddle/api/wire"
	"heddle/control/tailnet"
	v1 "heddle/proto/heddle/v1"
)

// Delivery is how the receiver of a webhook does, since the server started.
type Delivery struct {
	Tried     time.Time // zero if it was never tried
	Err       string    // why the latest attempt failed; "" if it did not
	Retry     time.Time // zero if nothing failed
	Delivered int64     // events
	Failed    int64     // attempts
	Position  int64     // of the latest audit entry that is dealt with
}

type webhooks struct {
	*Server
	v1.UnimplementedWebhookServiceServer
}

func (s webhooks) CreateWebhook(ctx context.Context, req *v1.CreateWebhookRequest) (*v1.CreateWebhookResponse, error) {
	var secret string
	var w *tailnet.Webhook
	_, err := s.update(ctx, func(tx *tailnet.Tx) (err error) {
		secret, w, err = tx.CreateWebhook(tailnet.Webhook{URL: req.GetUrl(), Provider: tailnet.Provider(req.GetProvider()), Events: events(req.GetEvents())})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.CreateWebhookResponse{Webhook: s.proto(ctx, w), Secret: secret}, nil
}

func (s webhooks) GetWebhook(ctx context.Context, req *v1.GetWebhookRequest) (*v1.GetWebhookResponse, error) {
	w := s.snapshot().Webhook(req.GetId())
	if w == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "no webhook with ID %.40q; `heddle webhooks list` shows them", req.GetId())
	}
	return &v1.GetWebhookResponse{Webhook: s.proto(ctx, w)}, nil
}

func (s webhooks) ListWebhooks(ctx context.Context, _ *v1.ListWebhooksRequest) (*v1.ListWebhooksResponse, error) {
	resp := &v1.ListWebhooksResponse{}
	for _, w := range s.snapshot().Settings().Webhooks {
		resp.Webhooks = append(resp.Webhooks, s.proto(ctx, w))
	}
	return resp, nil
}

func (s webhooks) UpdateWebhook(ctx context.Context, req *v1.UpdateWebhookRequest) (*v1.UpdateWebhookResponse, error) {
	var w *tailnet.Webhook
	_, err := s.update(ctx, func(tx *tailnet.Tx) (err error) {
		w, err = tx.SetWebhookEvents(req.GetId(), events(req.GetEvents()))
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.UpdateWebhookResponse{Webhook: s.proto(ctx, w)}, nil
}

func (s webhooks) RotateWebhook(ctx context.Context, req *v1.RotateWebhookRequest) (*v1.RotateWebhookResponse, error) {
	var secret string
	var w *tailnet.Webhook
	_, err := s.update(ctx, func(tx *tailnet.Tx) (err error) {
		secret, w, err = tx.RotateWebhook(req.GetId())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &v1.RotateWebhookResponse{Webhook: s.proto(ctx, w), Secret: secret}, nil
}

func (s webhooks) TestWebhook(ctx context.Context, req *v1.TestWebhookRequest) (*v1.TestWebhookResponse, error) {
	if _, err := s.update(ctx, func(tx *tailnet.Tx) error { return tx.TestWebhook(req.GetId()) }); err != nil {
		return nil, err
	}
	return &v1.TestWebhookResponse{}, nil
}

func (s webhooks) DeleteWebhook(ctx context.Context, req *v1.DeleteWebhookRequest) (*v1.DeleteWebhookResponse, error) {
	if _, err := s.update(ctx, func(tx *tailnet.Tx) error { return tx.DeleteWebhook(req.GetId()) }); err != nil {
		return nil, err
	}
	return &v1.DeleteWebhookResponse{}, nil
}

func events(names []string) []tailnet.Event {
	out := make([]tailnet.Event, len(names))
	for i, name := range names {
		out[i] = tailnet.Event(name)
	}
	return out
}

// proto leaves the secret out, and the path of the URL for who may only read.
func (s webhooks) proto(ctx context.Context, w *tailnet.Webhook) *v1.Webhook {
	out := &v1.Webhook{
		Id: w.ID, Url: w.URL, Provider: string(w.Provider), Creator: w.Creator, CreatedAt: wire.Time(w.Created), ChangedAt: wire.Time(w.Changed),
	}
	if !s.snapshot().Can(actorOf(ctx), tailnet.Write(tailnet.AreaWebhooks)) {
		out.Url = w.Host()
	}
	for _, e := range w.Events {
		out.Events = append(out.Events, string(e))
	}
	if s.opts.Deliveries != nil {
		d := s.opts.Deliveries(w.ID)
		out.Delivery = &v1.WebhookDelivery{
			TriedAt: wire.Time(d.Tried), Ok: !d.Tried.IsZero() && d.Err == "", Error: d.Err, RetryAt: wire.Time(d.Retry),
			Delivered: uint64(d.Delivered), Failed: uint64(d.Failed), Position: uint64(d.Position),
		}
	}
	return out
}
