package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"heddle/db"
	v1 "heddle/proto/heddle/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// heddle is the program, built once.
var heddle string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "heddle-crash-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	heddle = filepath.Join(dir, "heddle")
	build := exec.Command("go", "build", "-o", heddle, "heddle/cmd/heddle")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build heddle: %w", err)
	}
	return m.Run(), nil
}

// A server is a heddle that can be killed and started again.
type server struct {
	t       *testing.T
	dir     string
	addr    string
	env     []string
	store   db.Options // what is in it while the server does not run
	process *exec.Cmd
	key     key.MachinePublic
	conn    *grpc.ClientConn
	secret  string // of the auth key
}

// newServer starts a server in dir, with database.url if that is not empty.
func newServer(t *testing.T, dir, url string) *server {
	t.Helper()
	dependOnSources(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, addr: l.Addr().String()}
	l.Close()
	s.store = db.Options{Path: filepath.Join(dir, "data", "heddle.db")}
	s.env = append(os.Environ(), "HEDDLE_DATA_DIR="+filepath.Join(dir, "data"), "HEDDLE_LISTEN_ADDR="+s.addr, "HEDDLE_METRICS_LISTEN_ADDR=",
		"HEDDLE_DERP_EMBEDDED_ENABLED=false", "HEDDLE_UNIX_SOCKET="+filepath.Join(dir, "sock"))
	if url != "" {
		s.store = db.Options{URL: url}
		s.env = append(s.env, "HEDDLE_DATABASE_URL="+url)
	}
	if s.conn, err = grpc.NewClient("unix:"+filepath.Join(dir, "sock"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill(); s.conn.Close() })
	s.start()
	if _, err := v1.NewUserServiceClient(s.conn).CreateUser(t.Context(), &v1.CreateUserRequest{Name: "alice"}); err != nil {
		t.Fatal(err)
	}
	resp, err := v1.NewPreAuthKeyServiceClient(s.conn).CreatePreAuthKey(t.Context(), &v1.CreatePreAuthKeyRequest{
		User: "alice", Reusable: true, Lifetime: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.secret = resp.GetPreAuthKey().GetKey()
	return s
}

// dependOnSources lists the module's directories, so that the go command does not repeat an earlier
// result when only heddle has changed, which the tests do not import.
func dependOnSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "../.." {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tempDir is short enough for the name of a socket.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startPatience bounds a start on a machine that has other things to do.
const startPatience = 60 * time.Second

// start returns when the server answers.
func (s *server) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.process = exec.Command(heddle, "serve")
	s.process.Env, s.process.Stdout, s.process.Stderr = s.env, log, log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func(p *exec.Cmd) { p.Wait(); close(ended) }(s.process)
	await(s.t, startPatience, "heddle answers", func() error {
		select {
		case <-ended:
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("heddle ended: %s", text[max(0, len(text)-2000):])
		default:
		}
		return s.fetchKey()
	})
	await(s.t, startPatience, "heddle's socket answers", func() error {
		_, err := s.nodes().ListNodes(s.t.Context(), &v1.ListNodesRequest{}, grpc.WaitForReady(true))
		return err
	})
}

func (s *server) nodes() v1.NodeServiceClient { return v1.NewNodeServiceClient(s.conn) }

func (s *server) fetchKey() error {
	res, err := http.Get(fmt.Sprintf("http://%s/key?v=%d", s.addr, tailcfg.CurrentCapabilityVersion))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var keys tailcfg.OverTLSPublicKeyResponse
	if err := json.NewDecoder(res.Body).Decode(&keys); err != nil {
		return err
	}
	if !s.key.IsZero() && s.key != keys.PublicKey {
		s.t.Fatal("the server has another key than before")
	}
	s.key = keys.PublicKey
	return nil
}

// kill ends the server as the kernel does: without a word.
func (s *server) kill() {
	if s.process == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Error(err)
	}
	s.process = nil
}

// logHolds fails the test if the server's log holds a word.
func (s *server) logHolds(words ...string) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, w := range words {
		if strings.Contains(string(text), w) {
			s.t.Errorf("the server's log holds %q", w)
		}
	}
}

// await tries until there is no error.
func await(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never comes that %s: %v", what, err)
		}
	}
}
