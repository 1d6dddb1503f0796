package people

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"heddle/cmd/heddle/cli/show"
	"heddle/cmd/heddle/cli/span"
	v1 "heddle/proto/heddle/v1"
)

// The settings as people write them; the API's names have _ in place of -.
const (
	deviceApproval = "device-approval"
	userApproval   = "user-approval"
	keyExpiry      = "key-expiry"
)

// Settings is the command `settings`.
func Settings(t Tools) *cobra.Command {
	g := t.Group("settings", "Who may join the tailnet, and for how long", settingsGet(t), settingsSet(t), settingsContacts(t))
	g.Aliases = []string{"setting"}
	return g
}

func (t Tools) settings() (v1.SettingsServiceClient, error) {
	conn, err := t.Server()
	if err != nil {
		return nil, err
	}
	return v1.NewSettingsServiceClient(conn), nil
}

func settingsGet(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:     "get",
		Aliases: []string{"show", "list"},
		Short:   "Show the settings",
		Example: "  heddle settings get\n  heddle settings get -o json",
		Args:    t.Args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := t.settings()
			if err != nil {
				return err
			}
			resp, err := c.GetSettings(cmd.Context(), &v1.GetSettingsRequest{})
			if err != nil {
				return err
			}
			return t.Show(resp, func() {
				s := resp.GetSettings()
				table := show.NewTable("SETTING", "VALUE", "MEANING")
				table.Whole = true
				table.Add(deviceApproval, onOff(s.GetDeviceApproval()), "new devices wait for an administrator")
				table.Add(userApproval, onOff(s.GetUserApproval()), "new users wait for an administrator")
				table.Add(keyExpiry, expiryText(s.GetKeyExpiry(), resp.GetDefaultKeyExpiry()), "how long users' devices stay logged in")
				t.Table(table)
			})
		},
	}
}

func onOff(on bool) show.Cell {
	if on {
		return show.In(show.Green, "on")
	}
	return show.In(show.Dim, "off")
}

func expiryText(set, def *durationpb.Duration) string {
	switch d := set.AsDuration(); {
	case d < 0:
		return "never"
	case d > 0:
		v := span.Value(d)
		return v.String()
	}
	if d := span.Value(def.AsDuration()); d > 0 {
		return "default (" + d.String() + ")"
	}
	return "default (never)"
}

func settingsSet(t Tools) *cobra.Command {
	return &cobra.Command{
		Use:   "set SETTING VALUE",
		Short: "Change settings",
		Long: `Changes settings. Several are written as SETTING=VALUE.

  device-approval  on|off                  new devices wait for an administrator
  user-approval    on|off                  new users wait for an administrator
  key-expiry       never|default|DURATION  how long users' devices stay logged
                                           in; default: as the configuration
                                           file says. It counts from the next
                                           login on.`,
		Example: `  heddle settings set device-approval on
  heddle settings set key-expiry 90d
  heddle settings set device-approval=on user-approval=on`,
		Args: t.Args(1, -1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return []string{deviceApproval, userApproval, keyExpiry}, cobra.ShellCompDirectiveNoFileComp
			case len(args) == 1 && args[0] == keyExpiry:
				return []string{"never", "default", "180d"}, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := update(t, args)
			if err != nil {
				return err
			}
			c, err := t.settings()
			if err != nil {
				return err
			}
			resp, err := c.UpdateSettings(cmd.Context(), req)
			if err != nil {
				return err
			}
			return t.Done(resp, "the settings are changed; `heddle settings get` shows them")
		},
	}
}

// update understands NAME VALUE and NAME=VALUE….
func update(t Tools, args []string) (*v1.UpdateSettingsRequest, error) {
	if len(args) == 2 && !strings.Contains(args[0], "=") {
		args = []string{args[0] + "=" + args[1]}
	}
	req := &v1.UpdateSettingsRequest{Settings: new(v1.Settings), UpdateMask: new(fieldmaskpb.FieldMask)}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, t.Usage("%q: write SETTING VALUE, or SETTING=VALUE for several", arg)
		}
		var err error
		switch name {
		case deviceApproval:
			req.Settings.DeviceApproval, err = parseOnOff(t, arg, value)
		case userApproval:
			req.Settings.UserApproval, err = parseOnOff(t, arg, value)
		case keyExpiry:
			req.Settings.KeyExpiry, err = parseExpiry(t, arg, value)
		default:
			err = t.Usage("there is no setting %q: there are %s, %s and %s", name, deviceApproval, userApproval, keyExpiry)
		}
		if err != nil {
			return nil, err
		}
		req.UpdateMask.Paths = append(req.UpdateMask.Paths, strings.ReplaceAll(name, "-", "_"))
	}
	return req, nil
}

func parseOnOff(t Tools, arg, value string) (bool, error) {
	switch value {
	case "on", "true", "yes":
		return true, nil
	case "off", "false", "no":
		return false, nil
	}
	return false, t.Usage("%s: write on or off", arg)
}

func parseExpiry(t Tools, arg, value string) (*durationpb.Duration, error) {
	switch value {
	case "never", "off":
		return durationpb.New(-time.Second), nil
	case "default":
		return durationpb.New(0), nil
	}
	d, err := span.Parse(value)
	if err != nil {
		return nil, t.Usage("%s: write never, default, or a duration like 90d or 1y", arg)
	}
	return durationpb.New(d), nil
}
