package config_test

import (
	"strings"
	"testing"
	"time"

	"heddle/cmd/heddle/config"
)

func TestStorage(t *testing.T) {
	for _, tt := range []struct {
		yaml string
		want string // part of the problem; "" if there is none
	}{
		{"database: {url: 'postgres://h:hunter2@db.example.com/heddle'}", ""},
		{"database: {url: 'host=/run/postgresql dbname=heddle'}", ""},
		{"database: {url: 'mysql://h:hunter2@db.example.com/heddle'}", "f.yaml:1: database.url: must be the URL of a PostgreSQL database"},
		{"database: {type: postgres}", "f.yaml:1: database.type"},
		{"backup: {dir: /b, interval: 30s}", "f.yaml:1: backup.interval: must be at least 1m"},
		{"backup: {dir: /b, keep: 0}", "f.yaml:1: backup.keep: must be 1 to 10000"},
		{"backup: {dir: /b, recipients: [AGE-SECRET-KEY-1QQQ]}", "backup.recipients: \"AGE-SECRET-KEY-1QQQ\"… is no public key"},
		{"backup: {dir: /b, interval: 6h, keep: 3, recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}", ""},
	} {
		cfg, err := config.Parse("f.yaml", []byte(tt.yaml), []string{"HEDDLE_DATA_DIR=/data"})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.yaml, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: error %v, want %q", tt.yaml, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("the password is in the error: %v", err)
		case strings.HasPrefix(tt.yaml, "backup") && err == nil && (cfg.Backup.Interval != 6*time.Hour || cfg.Backup.Keep != 3 || cfg.Backup.Dir != "/b" || len(cfg.Warnings) > 0):
			t.Errorf("%s: %+v, %q", tt.yaml, cfg.Backup, cfg.Warnings)
		}
	}
	for yaml, want := range map[string]string{
		"backup: {dir: /b}":  "not encrypted",
		"backup: {keep: 30}": "backup.dir is not set",
	} {
		cfg, err := config.Parse("f.yaml", []byte(yaml), []string{"HEDDLE_DATA_DIR=/data"})
		if err != nil || !strings.Contains(strings.Join(cfg.Warnings, "\n"), want) {
			t.Errorf("%s: %v, no warning of %q", yaml, err, want)
		}
	}
}
