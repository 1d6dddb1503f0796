package serve

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhoReadsSlowlyKeepsNobodyWaiting asks for an answer that no buffer between takes, and leaves it there.
func TestWhoReadsSlowlyKeepsNobodyWaiting(t *testing.T) {
	const size = 32 << 20
	began := make(chan bool, 2)
	srv := httptest.NewServer(newShared(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began <- true
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusAccepted)
		w.Write(make([]byte, size))
	}), 0))
	defer srv.Close()
	slow, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-began
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil || resp.StatusCode != http.StatusAccepted || resp.Header.Get("Content-Type") != "text/plain" {
		t.Errorf("%s, %d bytes, %v", resp.Status, n, err)
	}
}

// TestWhoWaitsSharesTheNextAnswer has many ask while an answer is made: they all get the one after it.
func TestWhoWaitsSharesTheNextAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, begin := 0, make(chan bool)
		s := newShared(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			<-begin
			made++
			fmt.Fprint(w, made)
		}), time.Second)
		got := make(chan string, 100)
		ask := func() {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			got <- w.Body.String()
		}
		go ask()
		synctest.Wait()
		for range 50 {
			go ask()
		}
		synctest.Wait()
		start := time.Now()
		begin <- true
		if n := <-got; n != "1" {
			t.Errorf("the first answer is %s", n)
		}
		begin <- true
		for range 50 {
			if n := <-got; n != "2" {
				t.Errorf("one of those who waited got answer %s", n)
			}
		}
		if pause := time.Since(start); pause != time.Second {
			t.Errorf("there were %v between two answers", pause)
		}
		time.Sleep(time.Second) // of the bubble's clock: the pause after the last one
	})
}

// TestTurns has a request wait until another one is done, and not be made if its client leaves.
func TestTurns(t *testing.T) {
	began, end := make(chan bool), make(chan bool)
	srv := httptest.NewServer(newTurns(1, 0).of(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		began <- true
		<-end
	})))
	defer srv.Close()
	done := make(chan error, 2)
	ask := func() {
		resp, err := http.Get(srv.URL)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}
	go ask()
	<-began
	go ask()
	select {
	case <-began:
		t.Fatal("two have their turn at a time")
	case end <- true:
	}
	<-began
	end <- true
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestTheSocketMakesRoom fills the unix socket: the next one is let in, and the oldest goes.
func TestTheSocketMakesRoom(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(bounds{open: 3, byAddr: forOperators.byAddr}, nil, quiet)
	local := guarded{l, g}
	defer local.Close()
	var outside, inside []net.Conn
	for range 4 {
		out, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := local.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		defer in.Close()
		outside, inside = append(outside, out), append(inside, in)
	}
	if _, ok := inside[0].(interface{ NetConn() net.Conn }).NetConn().(*net.UnixConn); !ok {
		t.Error("nobody can ask the system who is at the other end")
	}
	if _, err := bufio.NewReader(outside[0]).ReadByte(); err != io.EOF {
		t.Errorf("the oldest connection: %v", err)
	}
	for i, c := range inside[1:] {
		if _, err := c.Write([]byte{1}); err != nil {
			t.Errorf("connection %d is cut: %v", i+1, err)
		}
		c.Close()
		c.Close()
	}
	if len(g.conns)+len(g.of) > 0 {
		t.Errorf("%d connections are counted although all are closed", len(g.conns))
	}
}
