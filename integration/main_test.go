//go:build linux

package integration_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"heddle/integration/lab"
	"heddle/integration/stock"
)

// programs are built once for all tests of the package.
var programs struct {
	heddle string
	stock  stock.Programs
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if lab.Missing() != nil {
		return m.Run(), nil // each test says what is missing
	}
	dir, err := os.MkdirTemp("", "heddle-programs-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	programs.heddle = filepath.Join(dir, "heddle")
	build := exec.Command("go", "build", "-o", programs.heddle, "heddle/cmd/heddle")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build heddle: %w", err)
	}
	if programs.stock, err = stock.Build(context.Background()); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
