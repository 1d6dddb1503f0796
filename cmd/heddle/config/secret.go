package config

import (
	"fmt"
	"log/slog"
)

// Secret is a value that must not be seen: however it is printed, logged or
// encoded, it shows as [redacted]. A key of this type can also be given as
// KEY_file in the file and as HEDDLE_…_FILE. The zero Secret is "not set".
type Secret struct{ value string }

const redacted = "[redacted]"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether no secret was set.
func (s Secret) IsZero() bool { return s.value == "" }

func (s Secret) String() string               { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Format covers all verbs, %#v among them.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
