package hosted_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"heddle/api/callers"
	"heddle/api/hosted"
	"heddle/control/tailnet/tailnettest"
)

// Those who read wait in one line, whichever API they use; those who change something do not.
func TestReadersWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTailnet(t, new(tailnettest.Store))
		log := slog.New(slog.DiscardHandler)
		gate := callers.NewGate(w.state, time.Now, log)
		h := hosted.New(hosted.Options{State: w.state, Gate: gate, Log: log, Now: time.Now, HTTP: http.DefaultClient})
		call := func(method, path, body string) <-chan *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, "/api/v2"+path, strings.NewReader(body))
			r.RemoteAddr = "127.0.0.1:1"
			r.SetBasicAuth(w.secret, "")
			got := make(chan *httptest.ResponseRecorder, 1)
			go func() {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				got <- rec
			}()
			return got
		}
		var turns []*callers.Turn
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			turn, err := gate.Reading(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			turns = append(turns, turn)
		}
		list, one := call("GET", "/tailnet/-/devices", ""), call("GET", "/device/1", "")
		if got := <-call("POST", "/device/1/name", `{"name": "desk"}`); got.Code != http.StatusOK {
			t.Errorf("a change: %d %s", got.Code, got.Body)
		}
		synctest.Wait()
		if len(list)+len(one) > 0 {
			t.Error("a reader did not wait for its turn")
		}
		turns[0].End()
		for _, got := range []*httptest.ResponseRecorder{<-list, <-one} {
			if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "desk.tail.test") {
				t.Errorf("%d %s", got.Code, got.Body)
			}
		}
		// Who has waited too long is told so.
		turn, err := gate.Reading(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		late := <-call("GET", "/tailnet/-/users", "")
		if late.Code != http.StatusServiceUnavailable || late.Header().Get("Retry-After") == "" || !strings.Contains(late.Body.String(), `"message":"too many programs`) {
			t.Errorf("%d %v %s", late.Code, late.Header(), late.Body)
		}
		turn.End()
		for _, turn := range turns[1:] {
			turn.End()
		}
	})
}
