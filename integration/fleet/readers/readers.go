package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// paths are what readers ask for, one after the other: all devices in both shapes, and one device in both.
var paths = []string{"/api/v1/node", "/api/v2/tailnet/-/devices?fields=all", "/api/v1/node/1", "/api/v2/device/1"}

// A report is what all readers saw.
type report struct {
	Readers int            `json:"readers"`
	Seconds float64        `json:"seconds"`
	Answers map[int]int    `json:"answers"` // by status; 0 for those that did not come
	Bytes   int64          `json:"bytes"`
	P50     float64        `json:"p50_ms"` // from the request to the end of its answer
	P99     float64        `json:"p99_ms"`
	Most    int            `json:"most_of_one"` // answers that the luckiest reader got
	Least   int            `json:"least_of_one"`
	First   map[int]string `json:"first"` // text of an error, by status
}

// run lets n readers read until ctx ends.
func run(ctx context.Context, url string, n int, secrets []string) report {
	r := report{Readers: n, Answers: map[int]int{}, First: map[int]string{}}
	var mu sync.Mutex
	var took []float64
	var wg sync.WaitGroup
	start := time.Now()
	each := make([]int, n)
	for i := range n {
		wg.Go(func() {
			client := &http.Client{Transport: transport(i)}
			for round := i; ctx.Err() == nil; round++ {
				at := time.Now()
				status, size, text := read(ctx, client, url+paths[round%len(paths)], secrets[i%len(secrets)])
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				r.Answers[status]++
				r.Bytes += size
				if status == http.StatusOK {
					took = append(took, time.Since(at).Seconds()*1000)
					each[i]++
				} else if r.First[status] == "" {
					r.First[status] = text
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Seconds = time.Since(start).Seconds()
	if slices.Sort(took); len(took) > 0 {
		r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	r.Most, r.Least = slices.Max(each), slices.Min(each)
	return r
}

// transport has one connection, from one of 200 addresses of this machine: what one address may call is
// bounded, too.
func transport(i int) http.RoundTripper {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%200))}
	return &http.Transport{DialContext: (&net.Dialer{LocalAddr: from}).DialContext, MaxConnsPerHost: 1, DisableCompression: true}
}

func read(ctx context.Context, client *http.Client, url, secret string) (status int, size int64, text string) {
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return 0, 0, err.Error()
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return resp.StatusCode, int64(len(body)), string(body)
	}
	size, err = io.Copy(io.Discard, resp.Body)
	if err != nil {
		return 0, size, err.Error()
	}
	return resp.StatusCode, size, ""
}
