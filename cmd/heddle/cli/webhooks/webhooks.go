// Package webhooks owns `heddle webhooks`: the receivers of events, in words. It refuses to
// know how the server is reached and how output is chosen.
package webhooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"heddle/cmd/heddle/cli/show"
	v1 "heddle/proto/heddle/v1"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Server  func() (*grpc.ClientConn, error)
	Show    func(m proto.Message, text func()) error                    // as text, JSON or YAML
	List    func(list []proto.Message, hint string, table func()) error // the same for lists
	Table   func(*show.Table)
	Hint    func(format string, args ...any)                                  // apart from the output
	Confirm func(*cobra.Command) (ask func(format string, args ...any) error) // adds --yes
	Out     io.Writer
}

// Command is `webhooks`.
func Command(t Tools) *cobra.Command {
	group := &cobra.Command{Use: "webhooks", Aliases: []string{"webhook"}, Short: "Receivers that are told of events", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	group.AddCommand(t.create(), t.list(), t.set(), t.rotate(), t.test(), t.delete())
	return group
}

func (t Tools) client() (v1.WebhookServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewWebhookServiceClient(conn), nil
}

const eventHelp = "`EVENTS`, separated by commas, such as nodeCreated, or categories"

func (t Tools) create() *cobra.Command {
	req := &v1.CreateWebhookRequest{}
	cmd := &cobra.Command{
		Use:   "create URL",
		Short: "Have events sent to a URL; prints the secret that signs them, once",
		Example: `  heddle webhooks create https://example.com/hook
  heddle webhooks create https://example.com/hook --events nodeCreated,nodeDeleted,policyUpdate
  heddle webhooks create https://hooks.slack.com/services/… --provider slack`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			req.Url = args[0]
			resp, err := c.CreateWebhook(cmd.Context(), req)
			if err != nil {
				return err
			}
			if host := private(req.GetUrl()); host != "" {
				t.Hint("%s is not a public address: nothing is sent there unless webhooks.allowed_networks in the server's configuration has it.", host)
			}
			return t.Show(resp, func() {
				t.Hint("Webhook %s is created. Its secret is not shown again:", resp.GetWebhook().GetId())
				fmt.Fprintln(t.Out, resp.GetSecret())
			})
		},
	}
	cmd.Flags().StringSliceVar(&req.Events, "events", []string{"categoryTailnetManagement", "categoryDeviceMisconfigurations"}, eventHelp)
	cmd.Flags().StringVar(&req.Provider, "provider", "", "`FORM` of the messages: slack, mattermost, googlechat or discord\ninstead of the events as JSON")
	return cmd
}

// shared is where the addresses of devices are.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// private returns the host of a URL if nobody needs to look it up to see that it is not public; "" otherwise.
// The server decides, by all addresses of a name, whenever it sends something.
func private(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	ip = ip.Unmap()
	if err == nil && (!ip.IsGlobalUnicast() || ip.IsPrivate() || shared.Contains(ip)) || host == "localhost" {
		return host
	}
	return ""
}

func (t Tools) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List webhooks, and how their receivers do",
		Example: "  heddle webhooks list\n  heddle webhooks list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			resp, err := c.ListWebhooks(cmd.Context(), &v1.ListWebhooksRequest{})
			if err != nil {
				return err
			}
			var list []proto.Message
			for _, w := range resp.GetWebhooks() {
				list = append(list, w)
			}
			return t.List(list, "There are no webhooks; `heddle webhooks create URL` makes one.", func() {
				table := show.NewTable("ID", "URL", "EVENTS", "STATE", "LAST ATTEMPT", "PROBLEM")
				table.Cut, table.Drop = []string{"EVENTS", "URL", "PROBLEM"}, []string{"EVENTS"}
				for _, w := range resp.GetWebhooks() {
					table.Add(w.GetId(), w.GetUrl(), strings.Join(w.GetEvents(), " "), state(w.GetDelivery()), tried(w.GetDelivery()), or(w.GetDelivery().GetError()))
				}
				t.Table(table)
			})
		},
	}
}

func state(d *v1.WebhookDelivery) show.Cell {
	switch {
	case d.GetTriedAt() == nil:
		return show.In(show.Dim, "not tried yet")
	case d.GetOk():
		return show.In(show.Green, "works")
	}
	return show.In(show.Red, "fails")
}

func tried(d *v1.WebhookDelivery) string {
	if d.GetTriedAt() == nil {
		return "-"
	}
	return d.GetTriedAt().AsTime().Local().Format(time.DateTime)
}

func (t Tools) set() *cobra.Command {
	req := &v1.UpdateWebhookRequest{}
	cmd := &cobra.Command{
		Use:     "set-events ID EVENT[,EVENT…]",
		Short:   "Replace the events that a webhook is told of",
		Example: "  heddle webhooks set-events k3jx5ab2c7de policyUpdate,userCreated",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			req.Id, req.Events = args[0], strings.Split(strings.Join(args[1:], ","), ",")
			resp, err := c.UpdateWebhook(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Show(resp.GetWebhook(), func() {
				fmt.Fprintf(t.Out, "webhook %s is told of %s\n", req.Id, strings.Join(resp.GetWebhook().GetEvents(), ", "))
			})
		},
	}
	return cmd
}

func (t Tools) rotate() *cobra.Command {
	return &cobra.Command{
		Use:     "rotate ID",
		Short:   "Give a webhook a new secret, and print it, once",
		Example: "  heddle webhooks rotate k3jx5ab2c7de",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			resp, err := c.RotateWebhook(cmd.Context(), &v1.RotateWebhookRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return t.Show(resp, func() { fmt.Fprintln(t.Out, resp.GetSecret()) })
		},
	}
}

const (
	// testPatience is how long `webhooks test` waits for what becomes of the event.
	testPatience = 20 * time.Second
	testTick     = 250 * time.Millisecond
)

func (t Tools) test() *cobra.Command {
	return &cobra.Command{
		Use:     "test ID",
		Short:   "Send a test event, and say whether the receiver took it",
		Example: "  heddle webhooks test k3jx5ab2c7de",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			before, err := c.GetWebhook(cmd.Context(), &v1.GetWebhookRequest{Id: args[0]})
			if err != nil {
				return err
			}
			if _, err := c.TestWebhook(cmd.Context(), &v1.TestWebhookRequest{Id: args[0]}); err != nil {
				return err
			}
			w, err := t.await(cmd.Context(), c, before.GetWebhook())
			if err != nil {
				return err
			}
			if d := w.GetDelivery(); !d.GetOk() {
				return fmt.Errorf("the receiver did not take the event: %s (it is tried again)", d.GetError())
			}
			return t.Show(w, func() { fmt.Fprintf(t.Out, "the receiver of webhook %s took the event\n", w.GetId()) })
		},
	}
}

// await waits until something became of an event that was sent after before.
func (t Tools) await(ctx context.Context, c v1.WebhookServiceClient, before *v1.Webhook) (*v1.Webhook, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, testPatience, errors.New("nothing became of the event yet; it waits behind others: see `heddle webhooks list`"))
	defer cancel()
	tick := time.NewTicker(testTick)
	defer tick.Stop()
	old := before.GetDelivery()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		resp, err := c.GetWebhook(ctx, &v1.GetWebhookRequest{Id: before.GetId()})
		if err != nil {
			return nil, err
		}
		if d := resp.GetWebhook().GetDelivery(); d.GetDelivered() > old.GetDelivered() || d.GetFailed() > old.GetFailed() {
			return resp.GetWebhook(), nil
		}
	}
}

func (t Tools) delete() *cobra.Command {
	var ask func(string, ...any) error
	cmd := &cobra.Command{
		Use:     "delete ID",
		Aliases: []string{"remove", "rm"},
		Short:   "Delete a webhook; what waits for it is not sent",
		Example: "  heddle webhooks delete k3jx5ab2c7de --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := t.client()
			if err != nil {
				return err
			}
			found, err := c.GetWebhook(cmd.Context(), &v1.GetWebhookRequest{Id: args[0]})
			if err != nil {
				return err
			}
			if err := ask("Delete webhook %s (%s)?", args[0], found.GetWebhook().GetUrl()); err != nil {
				return err
			}
			resp, err := c.DeleteWebhook(cmd.Context(), &v1.DeleteWebhookRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return t.Show(resp, func() { fmt.Fprintf(t.Out, "webhook %s is deleted\n", args[0]) })
		},
	}
	ask = t.Confirm(cmd)
	return cmd
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
