package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
)

// refresh is how often the live table is drawn anew.
const refresh = 2 * time.Second

// patience is how long one probe may take.
const patience = 3 * time.Second

// watch draws the table until ctx ends.
func (d *demo) watch(ctx context.Context) error {
	for ctx.Err() == nil {
		rows, _ := d.probe(ctx)
		if ctx.Err() != nil {
			break
		}
		fmt.Fprint(d.out, "\x1b[H\x1b[2J") // to the top left, clear
		d.draw(rows)
		fmt.Fprintln(d.out, "\nCtrl-C ends the demo.")
		select {
		case <-ctx.Done():
		case <-time.After(refresh):
		}
	}
	fmt.Fprintln(d.out)
	return nil
}

// waitWhole draws the table once everybody reaches everybody.
func (d *demo) waitWhole(ctx context.Context) error {
	for {
		rows, whole := d.probe(ctx)
		if whole {
			d.draw(rows)
			return nil
		}
		select {
		case <-ctx.Done():
			d.draw(rows)
			return errors.New("not everybody reaches everybody yet")
		case <-time.After(refresh / 4):
		}
	}
}

func (d *demo) draw(rows [][]string) {
	fmt.Fprintf(d.out, "heddle at %s: who (row) reaches whom (column), and how\n\n", d.url)
	w := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "FROM\tADDRESS\t%s\tBOX %s\n", strings.ToUpper(strings.Join(names, "\t")), box.Addr())
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
}

// probe asks every device to reach every other and the box. whole means that
// all of them did.
func (d *demo) probe(ctx context.Context) (rows [][]string, whole bool) {
	rows = make([][]string, len(d.nodes))
	var wg sync.WaitGroup
	for i, from := range d.nodes {
		ip, _ := from.TailscaleIPs()
		rows[i] = make([]string, 3+len(d.nodes))
		rows[i][0], rows[i][1] = from.Hostname, ip.String()
		for j, to := range d.nodes {
			wg.Go(func() { rows[i][2+j] = ping(ctx, from, to) })
		}
		wg.Go(func() { rows[i][2+len(d.nodes)] = d.visit(ctx, i) })
	}
	wg.Wait()
	whole = true
	for _, row := range rows {
		for _, cell := range row {
			whole = whole && cell != unreached
		}
	}
	return rows, whole
}

const unreached = "-"

// ping tells how one device reaches another.
func ping(ctx context.Context, from, to *tsnet.Server) string {
	if from == to {
		return "·"
	}
	ip, _ := to.TailscaleIPs()
	lc, err := from.LocalClient()
	if err != nil {
		return unreached
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := lc.Ping(ctx, ip, tailcfg.PingDisco)
	switch {
	case err != nil || res.Err != "":
		return unreached
	case res.Endpoint != "":
		return fmt.Sprintf("direct %.1f ms", res.LatencySeconds*1000)
	default:
		return fmt.Sprintf("relay %s %.1f ms", res.DERPRegionCode, res.LatencySeconds*1000)
	}
}

// visit opens a connection to the box of the site through the mesh.
func (d *demo) visit(ctx context.Context, i int) string {
	if i == len(d.nodes)-1 {
		return "·" // the router is there itself
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := d.nodes[i].Dial(ctx, "tcp", netip.AddrPort(box).String())
	if err != nil {
		return unreached
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if hello, err := io.ReadAll(c); err != nil || len(hello) == 0 {
		return unreached
	}
	return "by router"
}
