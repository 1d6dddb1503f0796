package headscale

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"heddle/control/tailnet"
)

// A place is where a headscale has what is read.
type place struct {
	settings *settings
	database string // SQLite file
	url      string // of a PostgreSQL database, instead
	noise    string
	derp     string
	policy   string // file; "" if the policy is in the database, or there is none
}

// The names of files in headscale's data directory as it proposes them.
const (
	databaseFile = "db.sqlite"
	noiseFile    = "noise_private.key"
	derpFile     = "derp_server_private.key"
	settingsFile = "config.yaml"
)

// locate finds out what Source is, and where everything else is then.
func locate(o *Options) (*place, error) {
	at := &place{settings: &settings{}}
	path, dir := o.Settings, ""
	switch kind, err := kindOf(o.Source); {
	case err != nil:
		return nil, err
	case kind == isURL:
		at.url = o.Source
	case kind == isDirectory:
		dir = o.Source
		at.database = filepath.Join(dir, databaseFile)
		if in := filepath.Join(dir, settingsFile); path == "" && exists(in) {
			path = in
		}
	case kind == isDatabase:
		dir, at.database = filepath.Dir(o.Source), o.Source
	case path != "":
		return nil, tailnet.Errorf(tailnet.Invalid, "%s is no SQLite database, and --headscale-config names the configuration already", o.Source)
	default:
		path = o.Source
	}
	if path != "" {
		var err error
		if at.settings, err = readSettings(path); err != nil {
			return nil, err
		}
		if dir == "" {
			dir = filepath.Dir(path)
		}
	}
	s := at.settings
	// Files may have been copied here from another machine.
	find := func(given, setting, usual string) string {
		if given != "" {
			return given
		}
		named := s.path(setting)
		if here := filepath.Join(dir, filepath.Base(cmp.Or(named, usual))); dir != "" && (named == "" || !exists(named)) {
			return here
		}
		return named
	}
	at.noise = find(o.NoiseKey, "noise.private_key_path", noiseFile)
	at.derp = find(o.DERPKey, "derp.server.private_key_path", derpFile)
	if s.text("policy.path") != "" && s.text("policy.mode") != "database" {
		at.policy = find("", "policy.path", "")
	}
	if at.database == "" && at.url == "" {
		switch kind := s.text("database.type"); kind {
		case "postgres":
			at.url = postgresURL(s)
		case "sqlite", "sqlite3", "":
			at.database = find("", "database.sqlite.path", databaseFile)
		default:
			return nil, tailnet.Errorf(tailnet.Invalid, "%s: database.type is %q, and not sqlite or postgres", path, kind)
		}
	}
	return at, nil
}

type sourceKind int

const (
	isSettings sourceKind = iota
	isDatabase
	isDirectory
	isURL
)

// magic is what a SQLite file begins with (https://sqlite.org/fileformat.html §1.3).
const magic = "SQLite format 3\x00"

func kindOf(source string) (sourceKind, error) {
	if strings.HasPrefix(source, "postgres://") || strings.HasPrefix(source, "postgresql://") {
		return isURL, nil
	}
	info, err := os.Stat(source)
	if err != nil {
		return 0, &tailnet.Error{Code: tailnet.NotFound, Msg: fmt.Sprintf("there is no headscale: %v; give its configuration file, its data directory, its database or a PostgreSQL URL", err), Err: err}
	}
	if info.IsDir() {
		return isDirectory, nil
	}
	f, err := os.Open(source)
	if err != nil {
		return 0, &tailnet.Error{Code: tailnet.Denied, Msg: err.Error(), Err: err}
	}
	defer f.Close()
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(f, start); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if bytes.Equal(start, []byte(magic)) || filepath.Ext(source) == ".sqlite" || filepath.Ext(source) == ".db" {
		return isDatabase, nil
	}
	return isSettings, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// postgresURL is how headscale reaches its database.
func postgresURL(s *settings) string {
	const key = "database.postgres."
	u := &url.URL{Scheme: "postgres", Path: "/" + s.text(key+"name"), User: url.UserPassword(s.text(key+"user"), s.text(key+"pass"))}
	q := url.Values{}
	host, port := s.text(key+"host"), s.text(key+"port")
	switch {
	case strings.HasPrefix(host, "/"): // a socket
		q.Set("host", host)
		if port != "" && port != "0" {
			q.Set("port", port)
		}
	case port == "" || port == "0":
		u.Host = host
	default:
		u.Host = net.JoinHostPort(host, port)
	}
	switch ssl := s.text(key + "ssl"); ssl {
	case "true":
		q.Set("sslmode", "require")
	case "false", "":
		q.Set("sslmode", "disable")
	default:
		q.Set("sslmode", ssl)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
