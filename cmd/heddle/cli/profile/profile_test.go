package profile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"heddle/cmd/heddle/cli/profile"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T) profile.Book {
	t.Helper()
	b, err := profile.Open()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBook(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	b := open(t)
	if _, _, ok, err := b.Find(""); ok || err != nil {
		t.Errorf("an empty book: %v, %v", ok, err)
	}
	for _, bad := range []string{"", "local", "../x", "a/b", "a b", "-x", strings.Repeat("x", 70)} {
		if err := b.Add(bad, profile.Profile{Address: "a"}, "k"); err == nil {
			t.Errorf("a profile %q was made", bad)
		}
	}
	for _, n := range []string{"home", "work"} {
		if err := b.Add(n, profile.Profile{Address: n + ".example.com"}, "tskey-api-"+n+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	p, key, ok, err := b.Find("")
	if err != nil || !ok || p.Address != "home.example.com" {
		t.Errorf("the first is not the current one: %+v, %v, %v", p, ok, err)
	}
	text, err := os.ReadFile(key)
	if err != nil || string(text) != "tskey-api-home\n" {
		t.Errorf("its key: %q, %v", text, err)
	}
	for _, file := range []string{key, filepath.Join(filepath.Dir(key), "profiles.yaml")} {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, st, err)
		}
	}
	if err := b.Use("work"); err != nil {
		t.Fatal(err)
	}
	list, err := open(t).List()
	want := []profile.Entry{{Name: "home", Profile: profile.Profile{Address: "home.example.com"}}, {Name: "work", Profile: profile.Profile{Address: "work.example.com"}, Current: true}}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if err := b.Use("play"); !errors.Is(err, profile.ErrUnknown) || !strings.Contains(err.Error(), "home, work, local") {
		t.Errorf("an unknown one: %v", err)
	}
	if err := b.Remove("work"); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, _ := b.Find(""); ok {
		t.Error("the current one was removed, and is still meant")
	}
	if _, err := os.Stat(b.KeyFile("work")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its key is left: %v", err)
	}
	if err := b.Use("home"); err != nil {
		t.Fatal(err)
	}
	if err := b.Use(profile.Local); err != nil {
		t.Fatal(err)
	}
	if _, _, ok, _ := b.Find(""); ok {
		t.Error("local is not this machine")
	}
}

func TestDamagedBook(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	b := open(t)
	if err := b.Add("home", profile.Profile{Address: "a"}, "k"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(b.KeyFile("home")), "profiles.yaml")
	for _, text := range []string{"profiles: 7", "nonsense: x", "{"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := b.Find("home"); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %v", text, err)
		}
		if err := b.Add("other", profile.Profile{Address: "a"}, "k"); err == nil {
			t.Errorf("%q was written over", text)
		}
	}
}
