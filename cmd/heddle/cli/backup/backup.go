// Package backup owns the commands about the data of a server as a whole: `heddle
// backup`, `heddle restore` and `heddle db`. They work on the data itself, not through a running
// server. The package refuses to know what is in it.
package backup

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"heddle/cmd/heddle/archive"
	"heddle/cmd/heddle/config"
	"heddle/control/tailnet"

	"filippo.io/age"
	"github.com/spf13/cobra"
)

// Tools are what the commands need of the command line around them.
type Tools struct {
	Config  func(*cobra.Command) string // path of the configuration file; "" if there is none
	Version string
	Coded   func(error) error // gives an error the exit code that it stands for
}

// Commands are `backup`, `restore` and `db`, for the root of the command line.
func Commands(t Tools) []*cobra.Command {
	return []*cobra.Command{t.backup(), t.restore(), t.db()}
}

func (t Tools) load(cmd *cobra.Command) (*config.Config, error) {
	return config.Load(t.Config(cmd), os.Environ())
}

func (t Tools) backup() *cobra.Command {
	var recipients []string
	var recipientsFile, passphraseFile string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the database and the keys of the server to a file",
		Long: `Write the database and the keys of the server to a file.

Run it on the server's machine, as the user of the server, with its configuration: it
does not work with --address. The server may run: the backup shows one moment. It holds
everything but the configuration file and what that names outside of data_dir.

Without a recipient or a passphrase, those of --recipient or of backup.recipients, the
backup is not encrypted: who has it can pretend to be the server.`,
		Example: `  heddle backup --config /etc/heddle/config.yaml /mnt/usb/heddle.tar.gz
  heddle backup --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p heddle.tar.gz.age
  heddle backup --passphrase-file /root/passphrase heddle.tar.gz.age`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := t.load(cmd)
			if err != nil {
				return err
			}
			to, err := recipientsOf(cfg, recipients, recipientsFile, passphraseFile)
			if err != nil {
				return t.Coded(err)
			}
			m, err := archive.Make(cmd.Context(), archive.SourceOf(cfg, t.Version, to), args[0], time.Now())
			if err != nil {
				return t.Coded(err)
			}
			return show(cmd, m, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s holds the database and %d other files\n", args[0], len(m.Files))
				if len(to) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "It is not encrypted and holds the keys of the server: keep it as safe as those. See --recipient.")
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&recipients, "recipient", nil, "encrypt for the public `KEY` of age or SSH; may be repeated")
	f.StringVar(&recipientsFile, "recipients-file", "", "encrypt for the public keys in `FILE`")
	f.StringVar(&passphraseFile, "passphrase-file", "", "encrypt with the passphrase in `FILE`")
	cmd.MarkFlagsMutuallyExclusive("passphrase-file", "recipient")
	cmd.MarkFlagsMutuallyExclusive("passphrase-file", "recipients-file")
	return cmd
}

func recipientsOf(cfg *config.Config, given []string, file, passphraseFile string) ([]age.Recipient, error) {
	if passphraseFile != "" {
		text, err := read(passphraseFile)
		if err != nil {
			return nil, err
		}
		r, _, err := archive.Passphrase(string(text))
		return []age.Recipient{r}, err
	}
	if file != "" {
		text, err := read(file)
		if err != nil {
			return nil, err
		}
		given = append(given, string(text))
	}
	if len(given) == 0 {
		given = cfg.Backup.Recipients
	}
	return archive.Recipients(given...)
}

// maxSecret bounds the files that flags name.
const maxSecret = 1 << 20

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSecret {
		err = fmt.Errorf("%s is larger than 1 MiB: is this the right file?", path)
	}
	if err != nil {
		return nil, &tailnet.Error{Code: tailnet.Invalid, Msg: err.Error()}
	}
	return os.ReadFile(path)
}

func (t Tools) restore() *cobra.Command {
	var identityFile, passphraseFile string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup in the place of a server that has no data yet",
		Long: `Put a backup in the place of a server that has no data yet.

The server must not run. The database and the keys go where the configuration says, which
may be another kind of database than that of the backup. Devices that knew the server
then reconnect without logging in again, if the new one has the same server_url.

What happened after the backup is lost: devices that joined since must log in again.`,
		Example: `  heddle restore --config /etc/heddle/config.yaml heddle.tar.gz
  heddle restore --identity-file key.txt heddle-20260101T000000Z.tar.gz.age`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := t.load(cmd)
			if err != nil {
				return err
			}
			keys, err := identitiesOf(identityFile, passphraseFile)
			if err != nil {
				return t.Coded(err)
			}
			m, img, err := archive.Restore(cmd.Context(), cfg, args[0], keys)
			if err != nil {
				return t.Coded(err)
			}
			return show(cmd, m, func() {
				into := cfg.DataDir
				if !cfg.Database.URL.IsZero() {
					into += " and the database of database.url"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "restored %d devices and %d users as of %s, from heddle %s at %s, into %s\n",
					len(img.Nodes), len(img.Users), m.Created.Local().Format(time.RFC1123), m.Heddle, m.Server, into)
				fmt.Fprintln(cmd.ErrOrStderr(), "Now start the server with this configuration, as the user that owns that directory: systemctl start heddle, or heddle serve.")
				if url := cfg.ServerURL.String(); url != m.Server {
					fmt.Fprintf(cmd.ErrOrStderr(), "The devices know the server as %s, and this one will be %s: they do not find it unless the name leads here.\n", m.Server, url)
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&identityFile, "identity-file", "", "decrypt with the private keys of age, or of SSH, in `FILE`")
	f.StringVar(&passphraseFile, "passphrase-file", "", "decrypt with the passphrase in `FILE`")
	cmd.MarkFlagsMutuallyExclusive("identity-file", "passphrase-file")
	return cmd
}

func identitiesOf(identityFile, passphraseFile string) ([]age.Identity, error) {
	switch {
	case identityFile != "":
		text, err := read(identityFile)
		if err != nil {
			return nil, err
		}
		return archive.Identities(text)
	case passphraseFile != "":
		text, err := read(passphraseFile)
		if err != nil {
			return nil, err
		}
		_, i, err := archive.Passphrase(string(text))
		return []age.Identity{i}, err
	}
	return nil, nil
}

// show prints what was done, in words or as the flag --output says.
func show(cmd *cobra.Command, v any, words func()) error {
	if format, _ := cmd.Flags().GetString("output"); format == "" || format == "table" {
		words()
		return nil
	}
	text, err := json.MarshalIndent(v, "", "  ") // which is YAML, too
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
	return err
}
