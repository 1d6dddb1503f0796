package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"heddle/cmd/heddle/cli/dial"
	"heddle/cmd/heddle/config"
	v1 "heddle/proto/heddle/v1"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
)

const (
	fewBytes  = 100 << 20 // of the disk: trouble is near
	someBytes = 1 << 30   // it is time to look
	fewFiles  = 4096      // open ones: each device holds two connections
)

// inside looks at what only this machine knows.
func (e *exam) inside(ctx context.Context, path string) {
	if !e.configuration(path) {
		return
	}
	e.url = e.cfg.ServerURL
	e.dataDir()
	e.disk()
	e.database(ctx)
	e.running(ctx)
	e.openFiles()
}

// topics are the names of findings about what a key of the configuration names.
var topics = map[string]string{
	"dns.base_domain": "base domain", "data_dir": "data directory", "tls.cert_file": "certificate file", "tls.key_file": "certificate file",
}

// configuration reports whether there is one to go on with.
func (e *exam) configuration(path string) bool {
	const next = "correct the file; `heddle config check` tells when it is right"
	cfg, err := config.Load(path, os.Environ())
	if err == nil {
		e.cfg = cfg
		err = cfg.Check(e.now())
	}
	var load *config.LoadError
	if errors.As(err, &load) {
		err = load.Err
	}
	var problems config.Errors
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			name, ok := topics[p.Key]
			if !ok {
				name = "configuration"
			}
			e.broken(name, next, "%s", p)
		}
	case err != nil:
		e.broken("configuration", "give the server's file with --config", "%v", err)
	default:
		e.fine("configuration", "%s", or(path, "none: the defaults hold"))
	}
	if e.cfg == nil {
		return false
	}
	for _, w := range e.cfg.Warnings {
		e.warn("configuration", "if it is not meant, correct the configuration", "%s", w)
	}
	e.fine("base domain", "devices are called NAME.%s, and %s does not lie there", e.cfg.DNS.BaseDomain, e.cfg.ServerURL.Hostname())
	return true
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// dataDir looks at the rights of what holds private keys.
func (e *exam) dataDir() {
	const name = "data directory"
	dir := e.cfg.DataDir
	st, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.skip(name, "%s is not there: the server makes it when it starts", dir)
		return
	case err != nil:
		e.broken(name, "run this as the server's user or as root", "%v", err)
		return
	case st.Mode().Perm()&0o077 != 0:
		e.broken(name, "chmod 700 "+dir, "others than the owner may look into %s (mode %04o), where the private keys and the database are", dir, st.Mode().Perm())
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		e.broken(name, "run this as the server's user or as root", "%v", err)
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasSuffix(entry.Name(), ".key") && info.Mode().Perm()&0o077 != 0 {
			file := filepath.Join(dir, entry.Name())
			e.broken(name, "chmod 600 "+file, "others than the owner may read %s (mode %04o)", file, info.Mode().Perm())
			return
		}
	}
	e.fine(name, "%s, mode %04o", dir, st.Mode().Perm())
}

// disk looks for room.
func (e *exam) disk() {
	const name = "disk"
	var st unix.Statfs_t
	if err := unix.Statfs(e.cfg.DataDir, &st); err != nil {
		e.skip(name, "%v", err)
		return
	}
	free, nodes := uint64(st.Bavail)*uint64(st.Bsize), uint64(st.Ffree)
	text := fmt.Sprintf("%d MB are free where %s is", free>>20, e.cfg.DataDir)
	next := "make room: without any the server refuses changes, and devices go on with what they have"
	switch {
	case free < fewBytes:
		e.broken(name, next, "only %s", text)
	case st.Files > 0 && nodes < 1000:
		e.broken(name, next, "only %d more files can be made where %s is", nodes, e.cfg.DataDir)
	case free < someBytes:
		e.warn(name, next, "%s", text)
	default:
		e.fine(name, "%s", text)
	}
}

// running asks the server how it is.
func (e *exam) running(ctx context.Context) {
	const name = "server"
	ctx, cancel := within(ctx)
	defer cancel()
	conn, err := e.server()
	var resp *v1.HealthResponse
	if err == nil {
		resp, err = v1.NewHealthServiceClient(conn).Health(ctx, &v1.HealthRequest{})
	}
	if err != nil {
		e.broken(name, "start it, and look at its log: `systemctl start heddle; journalctl -u heddle`", "it does not answer at %s: %s", e.cfg.Listen.Socket, why(conn, err))
		return
	}
	e.fine(name, "it answers at %s", e.cfg.Listen.Socket)
	e.parts(resp.GetParts())
}

// parts takes over what the server says of itself.
func (e *exam) parts(all []*v1.HealthPart) {
	for _, p := range all {
		switch {
		case !p.GetOk() && p.GetName() == "certificate":
			e.ailing = p.GetMessage()
			e.broken(p.GetName(), mendCertificate, "%s", p.GetMessage())
		case !p.GetOk():
			e.broken(p.GetName(), "see the server's log", "%s", p.GetMessage())
		case !e.looked(p.GetName()):
			e.fine(p.GetName(), "%s", or(p.GetMessage(), "works"))
		}
	}
}

// looked reports whether there is a verdict about something already.
func (e *exam) looked(name string) bool {
	return slices.ContainsFunc(e.findings, func(f Finding) bool { return f.Name == name && f.Verdict != Skipped })
}

// openFiles looks at the limit of the running server, or at what this machine gives one.
func (e *exam) openFiles() {
	const name = "open files"
	limit, whose := ownLimit(), "a program started here"
	if pid, err := dial.Process(e.cfg.Listen.Socket); err == nil {
		if text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits")); err == nil {
			limit, whose = openFilesOf(text), "the server"
		}
	}
	switch {
	case limit == 0:
		e.skip(name, "the limit is not known")
	case limit < fewFiles:
		e.broken(name, "raise it: LimitNOFILE=1048576 in the systemd unit, `ulimit -n`, or --ulimit nofile of the container",
			"%s may have %d, which is enough for some %d devices", whose, limit, max(0, int(limit)-100)/2)
	default:
		e.fine(name, "%s may have %d", whose, limit)
	}
}

// why says why a call failed.
func why(conn *dial.Conn, err error) string {
	if cause := conn.Explain(err); cause != nil {
		return cause.Error()
	}
	return status.Convert(err).Message()
}

func ownLimit() uint64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0
	}
	return uint64(r.Max)
}

// openFilesOf reads the soft limit from /proc/PID/limits; zero if it is not there.
func openFilesOf(limits []byte) uint64 {
	for line := range bytes.Lines(limits) {
		if rest, ok := bytes.CutPrefix(line, []byte("Max open files")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseUint(string(f[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}
