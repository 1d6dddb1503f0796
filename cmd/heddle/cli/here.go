package cli

import (
	"os"
	"slices"

	"heddle/cmd/heddle/cli/dial"

	"github.com/spf13/cobra"
)

// checkHere refuses a command that works on its own machine if another server is meant: who believes to
// have a backup of that one must not get one of this machine. Flags that name another server are
// always refused; variables and the current profile are not where the command says by itself what it
// works on.
func (a *app) checkHere(cmd *cobra.Command) error {
	top := cmd
	for top.HasParent() && top.Parent().HasParent() {
		top = top.Parent()
	}
	byFlag := a.flags.target.Address != "" || a.flags.profile != ""
	switch {
	case top.Name() == "config", top.Name() == "serve", cmd.Flags().Changed("url") && top.Name() == "doctor":
		if !byFlag {
			return nil
		}
	case !slices.Contains(a.more, top):
		return nil
	}
	address, by, err := a.elsewhere()
	if address == "" || err != nil {
		return err
	}
	host := dial.Host(address)
	if top.Name() == "doctor" {
		return usagef("%s works on the server's own machine, and %s means another one, %s: run it there (ssh %s), or use --url https://%s to look from here", cmd.CommandPath(), by, address, host, host)
	}
	return usagef("%s works on the server's own machine, and %s means another one, %s: run it there (ssh %s)", cmd.CommandPath(), by, address, host)
}

// elsewhere returns the address of the server that commands without a machine of their own would reach,
// and what names it; "" if that is on this machine.
func (a *app) elsewhere() (address, by string, err error) {
	profile := os.Getenv("HEDDLE_PROFILE")
	t, err := a.target()
	switch {
	case err != nil && a.flags.profile == "" && profile == "":
		return "", "", nil // who cannot read profiles, such as after su, has chosen none
	case err != nil:
		return "", "", err
	case a.flags.profile != "":
		by = "--profile " + a.flags.profile
	case a.flags.target.Address != "":
		by = "--address"
	case t.Address == "" && t.Socket == "": // as dial.New does
		t.Address, by = os.Getenv("HEDDLE_ADDRESS"), "HEDDLE_ADDRESS"
	case profile != "":
		by = "HEDDLE_PROFILE"
	default:
		by = "the current profile (`heddle profile use local` leaves it)"
	}
	return t.Address, by, nil
}
