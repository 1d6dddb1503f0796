package archive

import (
	"bytes"
	"fmt"
	"strings"

	"heddle/control/tailnet"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// Recipients reads public keys of age and SSH, one in each line; empty lines and those that begin
// with # do not count.
func Recipients(lines ...string) ([]age.Recipient, error) {
	var out []age.Recipient
	for _, text := range lines {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			r, err := recipient(line)
			if err != nil {
				return nil, tailnet.Errorf(tailnet.Invalid, "%.20q… is no public key of age (age1…) or SSH (ssh-ed25519 …): %v", line, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func recipient(line string) (age.Recipient, error) {
	if strings.HasPrefix(line, "ssh-") {
		return agessh.ParseRecipient(line)
	}
	some, err := age.ParseRecipients(strings.NewReader(line))
	if err != nil {
		return nil, err
	}
	return some[0], nil
}

// Passphrase makes what encrypts with a passphrase and what decrypts again.
func Passphrase(text string) (age.Recipient, age.Identity, error) {
	text = strings.TrimRight(text, "\r\n")
	if text == "" {
		return nil, nil, tailnet.Errorf(tailnet.Invalid, "the passphrase is empty")
	}
	r, err := age.NewScryptRecipient(text)
	if err != nil {
		return nil, nil, err
	}
	i, err := age.NewScryptIdentity(text)
	return r, i, err
}

// Identities reads a file with private keys: those of age, or one of SSH.
func Identities(text []byte) ([]age.Identity, error) {
	if bytes.Contains(text, []byte("-----BEGIN")) {
		i, err := agessh.ParseIdentity(text)
		if err != nil {
			return nil, tailnet.Errorf(tailnet.Invalid, "the SSH key cannot be used: %v", err)
		}
		return []age.Identity{i}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	return ids, nil
}
