package db

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// roundTrip checks that what is read from a row is written and read again as
// the same: a tailnet that was loaded can always be saved.
func roundTrip[R, T any](t *testing.T, r R, read func(*decoder, *R) T, write func(*encoder, string, T) R) {
	t.Helper()
	var dec decoder
	first := read(&dec, &r)
	if dec.err != nil {
		return
	}
	var enc encoder
	again := write(&enc, "default", first)
	if enc.err != nil {
		t.Fatalf("was read but cannot be written: %v", enc.err)
	}
	second := read(&dec, &again)
	if dec.err != nil {
		t.Fatalf("was written but cannot be read: %v", dec.err)
	}
	var enc2 encoder
	if third := write(&enc2, "default", second); !reflect.DeepEqual(again, third) {
		t.Fatalf("changes with every round:\n%+v\n%+v", again, third)
	}
}

func FuzzNodeRow(f *testing.F) {
	zero := strings.Repeat("0", 64)
	f.Add(`[]`, `[]`, `[]`, `{}`, "2026-02-03T04:05:06.700000089Z", "100.64.0.1", zero)
	f.Add(`["tag:a"]`, `["10.0.0.0/8","::/0"]`, `["192.0.2.1:1","[fe80::1%eth0]:2"]`,
		`{"OS":"linux","RoutableIPs":["10.0.0.0/8"],"NetInfo":{"DERPLatency":{"1-v4":0.1}},"Services":[{"Proto":"tcp","Port":1}]}`,
		"0001-01-01T00:00:00.000000000Z", "fd7a::1", zero)
	f.Add(`null`, `[""]`, `[null]`, `null`, "", "", "")
	f.Fuzz(func(t *testing.T, tags, approved, endpoints, hostinfo, at, ip, key string) {
		disco := "discokey:" + key
		r := nodeRow{
			Key: rowKey{"default", 1}, MachineKey: "mkey:" + key, NodeKey: "nodekey:" + key,
			Tags: tags, Addrs: addrColumns{IPv4: &ip}, Expiry: &at, Approved: approved,
			Report: reportColumns{DiscoKey: &disco, Endpoints: endpoints, Hostinfo: hostinfo},
			Status: statusColumns{LastSeen: &at},
		}
		roundTrip(t, r, (*decoder).node, nodeToRow)
	})
}

func FuzzSettingsRow(f *testing.F) {
	f.Add(`{"dns":{}}`)
	f.Add(`{"dns":{"magicDNS":true,"nameservers":["1.1.1.1"],"split":{"a.example":[],"b":null},"search":[""],"records":[{"name":"a","type":"A","value":"1"}]}}`)
	f.Add(`{"dns":{}}{}`)
	f.Fuzz(func(t *testing.T, data string) {
		roundTrip(t, settingsRow{Data: data}, (*decoder).settings, settingsToRow)
	})
}

func FuzzKeyRow(f *testing.F) {
	f.Add(`["tag:a","tag:b"]`, strings.Repeat("0f", 32), "2026-02-03T04:05:06.700000089Z")
	f.Add(`[""]`, "0f", "2026-02-03")
	f.Fuzz(func(t *testing.T, tags, hash, at string) {
		b, err := hex.DecodeString(hash)
		if err != nil {
			return
		}
		roundTrip(t, authKeyRow{Tags: tags, Hash: b, ExpiresAt: &at}, (*decoder).authKey, authKeyToRow)
		roundTrip(t, apiKeyRow{Hash: b, ExpiresAt: &at}, (*decoder).apiKey, apiKeyToRow)
	})
}

func FuzzAuditRow(f *testing.F) {
	f.Add(`[{"field":"a","from":"b","to":"c"}]`, "2026-02-03T04:05:06.700000089Z")
	f.Add(`[{}]`, "")
	f.Fuzz(func(t *testing.T, changes, at string) {
		var dec decoder
		r := auditRow{Key: rowKey{"default", 1}, Seq: 1, At: &at, Changes: changes}
		a := dec.audit(&r)
		if dec.err != nil {
			return
		}
		var enc encoder
		again := auditToRow(&enc, r.Key, 1, &a)
		b := dec.audit(&again)
		if enc.err != nil || dec.err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v became %+v (%v, %v)", a, b, enc.err, dec.err)
		}
	})
}
