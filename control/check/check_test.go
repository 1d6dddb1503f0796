package check_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"heddle/control/check"
	"heddle/control/tailnet"

	"tailscale.com/types/key"
)

func TestDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := check.New(time.Now)
		ends := check.Ends{Source: 1, Dest: 2, SourceKey: key.NewNode().Public(), Owner: 3}
		if table.Confirmed(ends, time.Hour) {
			t.Error("confirmed before anybody was asked")
		}
		c, err := table.Ask(ends, "root")
		if err != nil {
			t.Fatal(err)
		}
		answer := make(chan check.Connection, 1)
		go func() {
			got, _ := table.Wait(context.Background(), c.ID, 2)
			answer <- got
		}()
		synctest.Wait()
		if l := table.List(); len(l) != 1 || l[0].ID != c.ID {
			t.Errorf("waiting: %+v", l)
		}
		if _, err := table.Wait(context.Background(), c.ID, 7); tailnet.CodeOf(err) != tailnet.NotFound {
			t.Errorf("another node waits for it: %v", err)
		}
		if err := table.Decide(c.ID, true); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; got.State != check.Approved {
			t.Errorf("the waiter got %q", got.State)
		}
		if err := table.Decide(c.ID, false); tailnet.CodeOf(err) != tailnet.Conflict {
			t.Errorf("decided twice: %v", err)
		}
		if !table.Confirmed(ends, time.Hour) || table.Confirmed(ends, 0) {
			t.Error("a confirmation must hold for its period, and not at all if that is zero")
		}
		other := ends
		other.SourceKey = key.NewNode().Public()
		if table.Confirmed(other, time.Hour) {
			t.Error("the confirmation holds for another key of the source")
		}
		time.Sleep(time.Hour)
		if table.Confirmed(ends, time.Hour) {
			t.Error("the confirmation outlives its period")
		}
		if _, ok := table.Get(c.ID); ok {
			t.Error("a decided connection is never forgotten")
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := check.New(time.Now)
		c, err := table.Ask(check.Ends{Source: 1, Dest: 2}, "root")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := table.Wait(ctx, c.ID, 2); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a poll that broke: %v", err)
		}
		got, err := table.Wait(context.Background(), c.ID, 2)
		if err != nil || got.State != check.Expired {
			t.Errorf("after its life: %+v, %v", got, err)
		}
		if err := table.Decide(c.ID, true); err == nil {
			t.Error("too late, and approved")
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := check.New(time.Now)
		var last check.Connection
		from := func(source, dest tailnet.NodeID) (err error) {
			c, err := table.Ask(check.Ends{Source: source, Dest: dest}, "root")
			if err == nil {
				last = c
			}
			return err
		}
		ask := func(dest tailnet.NodeID) error { return from(1, dest) }
		for n := 1; ; n++ {
			if err := ask(2); err != nil {
				if tailnet.CodeOf(err) != tailnet.Exhausted || n < 5 {
					t.Errorf("question %d: %v", n, err)
				}
				break
			}
			if n > 1000 {
				t.Fatal("one node fills the table")
			}
		}
		if err := ask(3); err != nil {
			t.Errorf("another node is refused too: %v", err)
		}
		if err := from(4, 2); err != nil {
			t.Errorf("one source keeps others from the node: %v", err)
		}
		for range 100 { // what somebody decided about waits no more
			if err := from(5, 2); err != nil {
				t.Fatalf("after others were decided: %v", err)
			}
			if err := table.Decide(last.ID, false); err != nil {
				t.Fatal(err)
			}
		}
		source := tailnet.NodeID(100)
		for ; from(source, 2) == nil; source++ {
			if source > 1000 {
				t.Fatal("many sources fill the table")
			}
		}
		time.Sleep(check.Life)
		if err := ask(2); err != nil {
			t.Errorf("after the old ones expired: %v", err)
		}
	})
}
