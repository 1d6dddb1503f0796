//go:build linux

package browser

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"heddle/integration/lab"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"
)

// programs are where Chromium lies on Debian and elsewhere. Debian's /usr/bin/chromium is a script that reads /etc, of
// which hosts have little.
var programs = []string{"/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome"}

// patience is how long a page may take to show what a test waits for.
const patience = 20 * time.Second

// debugPort is where the browser is driven through, on its host's loopback.
const debugPort = "9222"

// Browser is a headless Chromium with a profile of its own.
type Browser struct {
	t     testing.TB
	ctx   context.Context
	shots string // directory for screenshots; "" takes none

	mu       sync.Mutex
	problems []string
}

// Start runs a browser on a host until the test ends. It trusts the given certificates (PEM files),
// and nobody else's. Without Chromium the test is skipped, or fails in CI.
func Start(t testing.TB, h *lab.Host, certFiles ...string) *Browser {
	t.Helper()
	program := find()
	if program == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is missing")
		}
		t.Skip("chromium is missing: apt-get install --no-install-recommends chromium")
	}
	var keys []string
	for _, file := range certFiles {
		keys = append(keys, fingerprint(t, file))
	}
	profile := filepath.Join(h.Dir(), "chromium")
	process, err := h.Start("chromium", environ(t, h), program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
		"--remote-debugging-port="+debugPort, "--user-data-dir="+profile, "--ignore-certificate-errors-spki-list="+strings.Join(keys, ","))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	url := "http://" + forward(t, h, "127.0.0.1:"+debugPort)
	lab.Await(t, patience, "chromium answers", func() error {
		select {
		case <-process.Done():
			t.Fatalf("chromium ended: %v: %s", process.Err(), lab.Tail(process.Log, 20))
		default:
		}
		resp, err := http.Get(url + "/json/version")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	ctx, cancel := remote.NewAllocator(context.Background(), url)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &Browser{t: t, ctx: ctx, shots: os.Getenv("LAB_SCREENSHOTS")}
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.note); err != nil {
		t.Fatal(err)
	}
	return b
}

// note keeps what the browser has to say of a page: what its policy forbids, what cannot be loaded.
func (b *Browser) note(event any) {
	if e, ok := event.(*log.EventEntryAdded); ok && e.Entry != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.problems = append(b.problems, e.Entry.URL+": "+e.Entry.Text)
	}
}

// Problems returns what the browser had to say of pages whose address begins so, since it was asked last.
func (b *Browser) Problems(prefix string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.problems {
		if strings.HasPrefix(p, prefix) {
			out = append(out, p)
		}
	}
	b.problems = nil
	return out
}

func find() string {
	for _, p := range programs {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	return ""
}

// environ gives the browser what it would find in /etc and in a home.
func environ(t testing.TB, h *lab.Host) []string {
	t.Helper()
	fonts := filepath.Join(h.Dir(), "fonts.conf")
	const config = `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><dir>/usr/share/fonts</dir>
<match target="pattern"><edit name="family" mode="append"><string>DejaVu Sans</string></edit></match></fontconfig>`
	if err := os.WriteFile(fonts, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"HOME=" + h.Dir(), "FONTCONFIG_FILE=" + fonts}
}

// fingerprint is that of a certificate's public key, by which Chromium is told to trust it.
func fingerprint(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s holds no certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// forward makes an address on a host's loopback reachable from the test, and returns where.
func forward(t testing.TB, h *lab.Host, addr string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer near.Close()
				far, err := h.Dial(context.Background(), "tcp", addr)
				if err != nil {
					return
				}
				defer far.Close()
				var copying sync.WaitGroup
				copying.Go(func() { io.Copy(far, near); far.Close() })
				io.Copy(near, far)
				near.Close()
				copying.Wait()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return ln.Addr().String()
}

// do does what a person does, who waits for as long as patience.
func (b *Browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, what, chromedp.Steps(steps...))
}

// run is do for what has a result.
func run[T any](b *Browser, what string, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatalf("%s: %v; the page is %s", what, err, b.now())
	}
	return v
}

// command sends a command without an answer to the browser.
func command[P any](c cdp.Command[P, cdp.Empty], p P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, p)
		return err
	})
}

// now is what the page shows, for messages.
func (b *Browser) now() string {
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	shown, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + ":\n" + document.body.innerText`))
	if err != nil {
		return fmt.Sprintf("unknown (%v)", err)
	}
	return shown
}

// Open goes to an address, as if it were typed.
func (b *Browser) Open(url string) {
	b.t.Helper()
	b.do("open "+url, chromedp.Navigate(url))
}

// Reload loads the page again.
func (b *Browser) Reload() {
	b.t.Helper()
	b.do("reload", chromedp.Reload())
}

// Click presses the button or link that says text.
func (b *Browser) Click(text string) {
	b.t.Helper()
	path := fmt.Sprintf(`//*[self::a or self::button or self::summary][contains(normalize-space(.), %q)]`, text)
	b.do("click "+text, chromedp.Click(chromedp.Search(path), chromedp.NodeVisible))
}

// Fill types into the field of that name.
func (b *Browser) Fill(field, text string) {
	b.t.Helper()
	b.do("fill "+field, chromedp.SendKeys(chromedp.CSS(fmt.Sprintf(`input[name=%q]`, field)), text))
}

// For makes failures those of another test, a part of the one that started the browser.
func (b *Browser) For(t testing.TB) { b.t = t }

// AwaitOne waits until the page shows one of the texts, and returns all that it shows.
func (b *Browser) AwaitOne(texts ...string) string {
	b.t.Helper()
	var shown string
	lab.Await(b.t, patience, fmt.Sprintf("the page shows one of %q", texts), func() error {
		shown = b.now()
		for _, text := range texts {
			if strings.Contains(shown, text) {
				return nil
			}
		}
		return fmt.Errorf("it shows %s", shown)
	})
	return shown
}

// Await waits until the page shows each of the texts, and returns all that it shows.
func (b *Browser) Await(texts ...string) string {
	b.t.Helper()
	var shown string
	lab.Await(b.t, patience, fmt.Sprintf("the page shows %q", texts), func() error {
		shown = b.now()
		for _, text := range texts {
			if !strings.Contains(shown, text) {
				return fmt.Errorf("it shows %s", shown)
			}
		}
		return nil
	})
	return shown
}

// Location is the address of the page.
func (b *Browser) Location() string {
	b.t.Helper()
	return run(b, "location", chromedp.Location())
}

// Evaluate runs JavaScript in the page and returns what it says.
func (b *Browser) Evaluate(script string) string {
	b.t.Helper()
	return run(b, "evaluate", chromedp.Evaluate[string](script))
}

// Forget removes all cookies.
func (b *Browser) Forget() {
	b.t.Helper()
	b.do("forget", command(network.ClearBrowserCookies, cdp.Empty{}))
}

// Shoot writes pictures of the page as it looks in light and dark, on a desk and on a telephone, to the
// directory that the variable LAB_SCREENSHOTS names. Without one it does nothing.
func (b *Browser) Shoot(name string) {
	b.t.Helper()
	if b.shots == "" {
		return
	}
	for _, look := range []struct {
		name          string
		width, height int64
		scheme        string
	}{
		{"light", 1000, 800, "light"},
		{"dark", 1000, 800, "dark"},
		{"mobile", 390, 844, "light"},
		{"mobile-dark", 390, 844, "dark"},
		{"narrow", 300, 600, "light"},
	} {
		b.do("look "+look.name,
			command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}}}),
			command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: look.width, Height: look.height, DeviceScaleFactor: 1, Mobile: look.width < 500}))
		png := run(b, "shoot "+name, chromedp.CaptureScreenshot())
		if err := os.WriteFile(filepath.Join(b.shots, name+"-"+look.name+".png"), png, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	b.do("look as before",
		command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}), command(emulation.ClearDeviceMetricsOverride, cdp.Empty{}))
}
