package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// scope is what the meaning of a text depends on beside the text.
type scope struct {
	dir  string // what relative paths are relative to
	home string // what ~ stands for; "" if unknown
}

var errEmpty = errors.New("is empty: write a value or remove it")

// parse sets dst from text. The errors say what is wrong and what to write,
// without naming the key.
func parse(text string, dst reflect.Value, k *key, sc scope) (err error) {
	if text == "" {
		if _, addr := dst.Interface().(netip.Addr); k.off || addr && k.example != "" {
			dst.SetZero()
			return nil
		}
		return errEmpty
	}
	switch p := dst.Addr().Interface().(type) {
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%.60q is neither true nor false", text)
		}
		*p = text == "true"
	case *int:
		if *p, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%.60q is not a whole number", text)
		}
	case *time.Duration:
		*p, err = parseDuration(text)
	case *netip.Addr:
		*p, err = parseAddr(text)
	case *netip.Prefix:
		*p, err = parsePrefix(text)
	case **url.URL:
		if k.format == "origin" {
			*p, err = parseOrigin(text)
		} else {
			*p, err = parseURL(text)
		}
	case *slog.Level:
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, text) {
			return fmt.Errorf("%.60q is none of debug, info, warn, error", text)
		}
		return p.UnmarshalText([]byte(text))
	case *fs.FileMode:
		*p, err = parseMode(text)
	case *Secret:
		*p = Secret{text}
	default:
		s, err := parseString(text, k.format, sc)
		if err != nil {
			return err
		}
		dst.SetString(s)
	}
	return err
}

// formats are the values of the format tag. Choices like "text|json" are
// another one.
var formats = map[string]func(string, scope) (string, error){
	"domain":     parseDomain,
	"email":      parseEmail,
	"host":       parseHost,
	"issuer":     parseIssuer,
	"label":      parseLabel,
	"line":       parseLine,
	"listen":     parseListen,
	"nameserver": parseNameserver,
	"path":       parsePath,
	"slug":       parseSlug,
	"text":       parseText,
}

func parseString(text, format string, sc scope) (string, error) {
	if strings.Contains(format, "|") {
		if choices := strings.Split(format, "|"); !slices.Contains(choices, text) {
			return "", fmt.Errorf("%.60q is none of %s", text, strings.Join(choices, ", "))
		}
		return text, nil
	}
	return formats[format](text, sc)
}

var durationParts = regexp.MustCompile(`^(?:([0-9]{1,5})d)?(.*)$`)

// parseDuration takes what time.ParseDuration takes, and days before it.
func parseDuration(text string) (time.Duration, error) {
	m := durationParts.FindStringSubmatch(text)
	days, _ := strconv.Atoi("0" + m[1])
	d := time.Duration(days) * 24 * time.Hour
	if m[1] != "" && m[2] == "" {
		return d, nil
	}
	rest, err := time.ParseDuration(m[2])
	if err != nil || text[0] == '+' || strings.ContainsRune(m[2], '-') || d+rest < d {
		return 0, fmt.Errorf("%.60q is not a duration: write a number and a unit, like 90s, 30m, 12h or 180d", text)
	}
	return d + rest, nil
}

func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%.60q is not an IP address", text)
	}
	return a.Unmap(), nil
}

// parsePrefix takes a single address for its prefix.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := parseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%.60q is not a prefix: write it like 100.64.0.0/16", text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind the prefix: write %s", p, p.Masked())
	}
	return p, nil
}

// parseOrigin parses scheme, host and port, as a client's control URL.
func parseOrigin(text string) (*url.URL, error) {
	u, err := parseURL(text)
	if err != nil {
		return nil, err
	}
	if u.Path == "/" {
		u.Path = ""
	}
	if u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("must end after the host and port: write %s://%s (clients do not keep a path)", u.Scheme, u.Host)
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsUnspecified() {
		return nil, fmt.Errorf("%s is no address that a client can reach: write the public name of this server", a)
	}
	return u, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%.100q is not an http or https URL: write it like https://vpn.example.com", withoutUserinfo(text))
	}
	if u.User != nil {
		return nil, errors.New("must not hold a user name or password")
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("must not hold a #")
	}
	host, err := parseHost(u.Hostname(), scope{})
	if err != nil {
		return nil, err
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("the port %.20s is not one of 1 to 65535", port)
		}
		host += ":" + port
	}
	u.Host = host
	return u, nil
}

// withoutUserinfo keeps a password out of messages.
func withoutUserinfo(text string) string {
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		return "…" + text[i:]
	}
	return text
}

func parseMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	if err != nil || n > 0o777 || n&0o600 != 0o600 {
		return 0, fmt.Errorf("%.60q is not an octal mode that lets the owner read and write: write it like 0660", text)
	}
	return fs.FileMode(n), nil
}

func parsePath(text string, sc scope) (string, error) {
	if strings.ContainsRune(text, 0) {
		return "", errors.New("a path must not hold a zero byte")
	}
	if text == "" {
		return "", errEmpty
	}
	if rest, ok := strings.CutPrefix(text, "~"); ok && (rest == "" || rest[0] == '/') {
		if sc.home == "" {
			return "", errors.New("~ has no meaning here, as HOME is not set: write the path out")
		}
		return filepath.Join(sc.home, rest), nil
	}
	if filepath.IsAbs(text) {
		return filepath.Clean(text), nil
	}
	return filepath.Join(sc.dir, text), nil
}

var domainLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// parseDomain returns the domain in lower case and without a trailing dot.
func parseDomain(text string, _ scope) (string, error) {
	domain := strings.ToLower(strings.TrimSuffix(text, "."))
	if strings.HasPrefix(domain, "*") {
		return "", fmt.Errorf("%.60q has a wildcard, which clients do not know: name the hosts one by one", text)
	}
	for _, r := range domain {
		if r > unicode.MaxASCII {
			return "", fmt.Errorf("%.60q is not ASCII: write international names as xn--…", text)
		}
	}
	if len(domain) > 253 {
		return "", fmt.Errorf("%.40q… is longer than the 253 bytes of a domain name", text)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if !domainLabel.MatchString(label) {
			return "", fmt.Errorf("%.60q is not a domain name: %.70q must be 1 to 63 letters, digits and inner hyphens", text, label)
		}
	}
	return domain, nil
}

func parseEmail(text string, _ scope) (string, error) {
	if a, err := mail.ParseAddress(text); err != nil || a.Address != text {
		return "", fmt.Errorf("%.60q is not an e-mail address: write it like admin@example.com", text)
	}
	return text, nil
}

func parseHost(text string, _ scope) (string, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.String(), nil
	}
	domain, err := parseDomain(text, scope{})
	if err != nil {
		return "", fmt.Errorf("%.60q is neither an IP address nor a host name", text)
	}
	return domain, nil
}

func parseLabel(text string, _ scope) (string, error) {
	if !domainLabel.MatchString(strings.ToLower(text)) {
		return "", fmt.Errorf("%.70q must be 1 to 63 letters, digits and inner hyphens", text)
	}
	return text, nil
}

func parseText(text string, _ scope) (string, error) {
	if len(text) > 100 || strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("%.60q must be one line of at most 100 bytes", text)
	}
	return text, nil
}

// parseLine takes what is for others to understand.
func parseLine(text string, _ scope) (string, error) {
	if text == "" {
		return "", errEmpty
	}
	if len(text) > 1000 || strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("%.60q must be one line of at most 1000 bytes", text)
	}
	return text, nil
}

var parameterName = regexp.MustCompile(`^[A-Za-z0-9_.~-]{1,100}$`)

func parseParameter(text string, _ scope) (string, error) {
	if !parameterName.MatchString(text) {
		return "", fmt.Errorf("%.60q is not the name of a parameter: use letters, digits, and _ . - ~", text)
	}
	return text, nil
}

var slug = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func parseSlug(text string, _ scope) (string, error) {
	if !slug.MatchString(text) {
		return "", fmt.Errorf("%.60q must be 1 to 32 small letters, digits and inner hyphens", text)
	}
	return text, nil
}

// parseIssuer keeps the text: providers write theirs with or without a final slash, and the two differ.
func parseIssuer(text string, _ scope) (string, error) {
	u, err := parseURL(text)
	if err != nil {
		return "", err
	}
	if u.RawQuery != "" {
		return "", errors.New("must not hold a ?")
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return "", fmt.Errorf("%.100q is not https: anybody on the way could log in as anybody", text)
	}
	return text, nil
}

func parseListen(text string, _ scope) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%.60q is not HOST:PORT: write it like 127.0.0.1:8080, or :8080 for all interfaces", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("the port %.20q is not one of 0 to 65535", port)
	} else {
		port = strconv.FormatUint(n, 10)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String() // a zone may be needed to listen on a link-local address
	} else if host != "" {
		if host, err = parseHost(host, scope{}); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

// parseNameserver takes what stock clients take as a resolver
// (tailscale.com/types/dnstype), without what they keep for themselves.
func parseNameserver(text string, _ scope) (string, error) {
	if strings.HasPrefix(text, "https://") {
		u, err := parseURL(text)
		if err != nil {
			return "", err
		}
		return u.String(), nil
	}
	a, err := parseAddr(text)
	out := a.String()
	if err != nil {
		ap, err := netip.ParseAddrPort(text)
		if err != nil || ap.Port() == 0 || ap.Addr().Zone() != "" {
			return "", fmt.Errorf("%.60q is no nameserver: write an IP address, IP:PORT, or an https URL", text)
		}
		a, out = ap.Addr().Unmap(), netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
	}
	if a == netip.AddrFrom4([4]byte{100, 100, 100, 100}) || a == netip.MustParseAddr("fd7a:115c:a1e0::53") {
		return "", fmt.Errorf("%s is the resolver inside the clients, which would ask itself: name another one", a)
	}
	if a.IsUnspecified() || a.IsMulticast() {
		return "", fmt.Errorf("%s is no address of a nameserver", a)
	}
	return out, nil
}
