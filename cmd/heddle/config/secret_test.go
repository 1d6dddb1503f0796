package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A secretive language: no key of Config is secret yet.
type secretive struct {
	Oidc struct {
		Secret Secret `key:"client_secret"`
	} `key:"oidc"`
}

func loadSecret(text string, environ ...string) (Secret, Errors) {
	l := newLoader(newSchema(reflect.TypeFor[secretive]()), environ)
	l.readYAML("f.yaml", []byte(text))
	l.readEnviron()
	var s secretive
	l.decode(reflect.ValueOf(&s).Elem())
	l.problems.sort()
	return s.Oidc.Secret, l.problems
}

func TestSecretSources(t *testing.T) {
	dir := t.TempDir()
	file, empty := filepath.Join(dir, "secret"), filepath.Join(dir, "empty")
	for path, text := range map[string]string{file: "hunter2\n", empty: " \n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, yaml string
		environ    []string
		want       string // the secret, or the problem
	}{
		{"empty file", "oidc: {client_secret_file: " + empty + "}", nil, "f.yaml:1: oidc.client_secret_file: the file " + empty + " is empty: write the secret into it"},
		{"no file", "oidc: {client_secret_file: " + dir + "/none}", nil, "f.yaml:1: oidc.client_secret_file: cannot read the secret: open " + dir + "/none: no such file or directory"},
		{"no path", "oidc: {client_secret_file: [a]}", nil, "f.yaml:1: oidc.client_secret_file: must be the path of a file that holds the secret"},
		{"twice in the file", "oidc:\n  client_secret: hunter2\n  client_secret_file: " + file, nil, "f.yaml:3: oidc.client_secret: already set by f.yaml:2: remove one"},
		{"twice in variables", "", []string{"HEDDLE_OIDC_CLIENT_SECRET=hunter2", "HEDDLE_OIDC_CLIENT_SECRET_FILE=" + file}, "HEDDLE_OIDC_CLIENT_SECRET_FILE: oidc.client_secret: already set by HEDDLE_OIDC_CLIENT_SECRET: remove one"},
		{"not a value", "oidc: {client_secret: {hunter2: hunter2}}", nil, "f.yaml:1: oidc.client_secret: must be a single value"},
		{"mistyped variable", "", []string{"HEDDLE_OIDC_CLIENT_SECRTE_FILE=/hunter2"}, "HEDDLE_OIDC_CLIENT_SECRTE_FILE: unknown variable, did you mean HEDDLE_OIDC_CLIENT_SECRET_FILE?"},
		{"value", "oidc: {client_secret: hunter2}", nil, "hunter2"},
		{"file", "oidc: {client_secret_file: " + file + "}", nil, "hunter2"},
		{"variable", "oidc: {client_secret: x}", []string{"HEDDLE_OIDC_CLIENT_SECRET=hunter2"}, "hunter2"},
		{"file by variable", "oidc: {client_secret_file: " + empty + "x}", []string{"HEDDLE_OIDC_CLIENT_SECRET_FILE=" + file}, "f.yaml:1: oidc.client_secret_file: cannot read the secret: open " + empty + "x: no such file or directory"},
		{"file by variable wins", "oidc: {client_secret: x}", []string{"HEDDLE_OIDC_CLIENT_SECRET_FILE=" + file}, "hunter2"},
	} {
		secret, problems := loadSecret(tt.yaml, tt.environ...)
		got := secret.Reveal()
		if len(problems) > 0 {
			got = problems.Error()
			if strings.Contains(strings.ReplaceAll(got, file, ""), "hunter2") {
				t.Errorf("%s: the problem tells the secret: %s", tt.name, got)
			}
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestSecretIsNeverSeen(t *testing.T) {
	s, problems := loadSecret("oidc: {client_secret: hunter2}")
	if problems != nil || s.IsZero() || !(Secret{}).IsZero() {
		t.Fatal(s, problems)
	}
	type holder struct {
		S Secret
		P *Secret
	}
	h := holder{s, &s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+"\n", s, h)
	}
	fmt.Fprintln(&out, s.String(), errors.New(fmt.Sprint(s)))
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "s", s, "h", h)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "s", s, "h", h)
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		text, err := marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("the secret shows:\n%s", &out)
	}
}
