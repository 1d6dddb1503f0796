package hosted

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"heddle/control/tailnet"

	"github.com/go-chi/chi/v5"
)

// device is a node as programs for the hosted service know it.
type device struct {
	deviceNames
	deviceLogin
	deviceClient
	TailnetLockError string `json:"tailnetLockError"`
	TailnetLockKey   string `json:"tailnetLockKey"`
	*allFields
}

type deviceNames struct {
	Addresses []string `json:"addresses"`
	ID        string   `json:"id"`     // the number, which older programs use
	NodeID    string   `json:"nodeId"` // the stable ID
	User      string   `json:"user"`
	Name      string   `json:"name"` // FQDN without a final dot
	Tags      []string `json:"tags,omitempty"`
}

type deviceLogin struct {
	Created           time.Time `json:"created"`
	KeyExpiryDisabled bool      `json:"keyExpiryDisabled"`
	Expires           time.Time `json:"expires"`
	Authorized        bool      `json:"authorized"`
	IsExternal        bool      `json:"isExternal"`
	IsEphemeral       bool      `json:"isEphemeral"`
	MachineKey        string    `json:"machineKey"`
	NodeKey           string    `json:"nodeKey"`
}

type deviceClient struct {
	Hostname                  string     `json:"hostname"`
	ClientVersion             string     `json:"clientVersion"`
	UpdateAvailable           bool       `json:"updateAvailable"`
	OS                        string     `json:"os"`
	ConnectedToControl        bool       `json:"connectedToControl"`
	LastSeen                  *time.Time `json:"lastSeen,omitempty"` // not while it is connected
	BlocksIncomingConnections bool       `json:"blocksIncomingConnections"`
	SSHEnabled                bool       `json:"sshEnabled"`
}

// allFields are sent only to those who ask for fields=all.
type allFields struct {
	EnabledRoutes      []string      `json:"enabledRoutes"`
	AdvertisedRoutes   []string      `json:"advertisedRoutes"`
	ClientConnectivity *connectivity `json:"clientConnectivity,omitempty"`
	Distro             *distro       `json:"distro,omitempty"`
}

type connectivity struct {
	Endpoints             []string           `json:"endpoints"`
	DERP                  string             `json:"derp"`
	MappingVariesByDestIP bool               `json:"mappingVariesByDestIP"`
	Latency               map[string]latency `json:"latency"`
	ClientSupports        map[string]bool    `json:"clientSupports"`
}

type latency struct {
	LatencyMs float64 `json:"latencyMs"`
	Preferred bool    `json:"preferred,omitempty"`
}

type distro struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	CodeName string `json:"codeName"`
}

type routes struct {
	AdvertisedRoutes []string `json:"advertisedRoutes"`
	EnabledRoutes    []string `json:"enabledRoutes"`
}

func (s *Server) deviceRoutes(r chi.Router) {
	r.Route("/device/{device}", func(r chi.Router) {
		read := tailnet.Read(tailnet.AreaDevices)
		r.Get("/", s.admin(read, s.getDevice))
		r.Delete("/", s.admin(tailnet.Write(tailnet.AreaDevices), s.changeDevice(func(tx *tailnet.Tx, n *tailnet.Node, _ *deviceEdit) error {
			return tx.DeleteNode(n.ID)
		})))
		for path, change := range deviceEdits {
			r.Post("/"+path, s.admin(tailnet.Write(tailnet.AreaDevices), s.changeDevice(change)))
		}
		r.Get("/routes", s.admin(tailnet.Read(tailnet.AreaRoutes), s.getRoutes))
		r.Post("/routes", s.admin(tailnet.Write(tailnet.AreaRoutes), s.setRoutes))
		r.Get("/attributes", s.admin(tailnet.Read(tailnet.AreaPosture), s.getAttributes))
		r.Post("/attributes/{key}", s.admin(tailnet.Write(tailnet.AreaPosture), s.setAttribute))
		r.Delete("/attributes/{key}", s.admin(tailnet.Write(tailnet.AreaPosture), s.deleteAttribute))
	})
}

// deviceEdit is what the bodies of changes to a device have.
type deviceEdit struct {
	Authorized        *bool      `json:"authorized"`
	Name              *string    `json:"name"`
	Tags              []string   `json:"tags"`
	KeyExpiryDisabled *bool      `json:"keyExpiryDisabled"`
	IPv4              netip.Addr `json:"ipv4"`
}

type deviceChange func(*tailnet.Tx, *tailnet.Node, *deviceEdit) error

// deviceEdits are the changes by the last part of their path.
var deviceEdits = map[string]deviceChange{
	"expire": func(tx *tailnet.Tx, n *tailnet.Node, _ *deviceEdit) error { return tx.ExpireNode(n.ID) },
	"authorized": func(tx *tailnet.Tx, n *tailnet.Node, e *deviceEdit) error {
		switch {
		case e.Authorized == nil:
			return tailnet.Errorf(tailnet.Invalid, `the body must be {"authorized": true} or false`)
		case *e.Authorized:
			return tx.ApproveNode(n.ID)
		}
		return tx.HoldNode(n.ID)
	},
	"name": func(tx *tailnet.Tx, n *tailnet.Node, e *deviceEdit) error {
		if e.Name == nil {
			return tailnet.Errorf(tailnet.Invalid, `the body must be {"name": "…"}; an empty name goes back to the device's own`)
		}
		name := strings.TrimSuffix(strings.ToLower(*e.Name), ".")
		return tx.RenameNode(n.ID, strings.TrimSuffix(name, "."+tx.Snapshot().DNS().BaseDomain))
	},
	"tags": func(tx *tailnet.Tx, n *tailnet.Node, e *deviceEdit) error { return tx.SetTags(n.ID, e.Tags) },
	"key": func(tx *tailnet.Tx, n *tailnet.Node, e *deviceEdit) error {
		switch {
		case e.KeyExpiryDisabled == nil:
			return tailnet.Errorf(tailnet.Invalid, `the body must be {"keyExpiryDisabled": true} or false`)
		case n.Tagged() && *e.KeyExpiryDisabled:
			return nil // as it is
		}
		return tx.SetNoExpiry(n.ID, *e.KeyExpiryDisabled)
	},
	"ip": func(tx *tailnet.Tx, n *tailnet.Node, e *deviceEdit) error { return tx.SetNodeAddress(n.ID, e.IPv4) },
}

// changeDevice adapts a change that answers nothing.
func (s *Server) changeDevice(change deviceChange) handler {
	return func(c *call) (any, error) {
		n, err := c.device()
		if err != nil {
			return nil, err
		}
		var e deviceEdit
		if err := c.body(&e); err != nil {
			return nil, err
		}
		_, err = c.update(func(tx *tailnet.Tx) error { return change(tx, n, &e) })
		return nil, err
	}
}

// device returns the node of the path, by its stable ID or its number.
func (c *call) device() (*tailnet.Node, error) {
	return nodeOf(c.snapshot(), chi.URLParam(c.Request, "device"))
}

func nodeOf(snap *tailnet.Snapshot, id string) (*tailnet.Node, error) {
	if number, err := strconv.ParseInt(id, 10, 64); err == nil {
		if n := snap.Node(tailnet.NodeID(number)); n != nil {
			return n, nil
		}
	}
	for n := range snap.Nodes() {
		if string(n.StableID) == id {
			return n, nil
		}
	}
	return nil, tailnet.Errorf(tailnet.NotFound, "there is no device with the ID %.40q", id)
}

func (s *Server) getDevice(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	all, err := c.allFields()
	if err != nil {
		return nil, err
	}
	return newDevice(c.snapshot(), n, all), nil
}

func (c *call) allFields() (bool, error) {
	switch fields := c.URL.Query().Get("fields"); fields {
	case "", "default":
		return false, nil
	case "all":
		return true, nil
	default:
		return false, tailnet.Errorf(tailnet.Invalid, "fields=%.40s: it must be all or default", fields)
	}
}

// listDevices lists the devices whose fields have the values that the query asks for.
func (s *Server) listDevices(c *call) (any, error) {
	all, err := c.allFields()
	if err != nil {
		return nil, err
	}
	filters := c.URL.Query()
	filters.Del("fields")
	snap := c.snapshot()
	devices := []*device{}
	for n := range snap.Nodes() {
		d := newDevice(snap, n, all || len(filters) > 0)
		if len(filters) > 0 {
			ok, err := d.matches(filters)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if !all {
				d.allFields = nil
			}
		}
		devices = append(devices, d)
	}
	return map[string][]*device{"devices": devices}, nil
}

// matches compares fields, by their names in JSON, with values: of a list, one element.
func (d *device) matches(filters map[string][]string) (bool, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return false, err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return false, err
	}
	if _, ok := fields["tags"]; !ok {
		fields["tags"] = []any{}
	}
	for name, values := range filters {
		have, ok := fields[name]
		if !ok && name != "lastSeen" {
			return false, tailnet.Errorf(tailnet.Invalid, "devices have no field %.40q to filter by", name)
		}
		for _, want := range values {
			list, isList := have.([]any)
			switch {
			case isList && !slices.ContainsFunc(list, func(v any) bool { return fmt.Sprint(v) == want }),
				!isList && fmt.Sprint(have) != want:
				return false, nil
			}
		}
	}
	return true, nil
}

func newDevice(s *tailnet.Snapshot, n *tailnet.Node, all bool) *device {
	h := n.Report.Hostinfo
	d := &device{
		deviceNames: deviceNames{
			ID: n.ID.String(), NodeID: string(n.StableID), User: "tagged-devices", Name: strings.TrimSuffix(s.FQDN(n), "."), Tags: n.Tags,
		},
		deviceLogin: deviceLogin{
			Created: n.Origin.Created.UTC(), KeyExpiryDisabled: n.Expiry.IsZero(), Expires: n.Expiry.UTC(),
			Authorized: !n.Pending, IsEphemeral: n.Ephemeral, MachineKey: n.Machine.String(), NodeKey: n.Key.String(),
		},
		deviceClient: deviceClient{
			Hostname: h.Hostname, ClientVersion: h.IPNVersion, OS: h.OS, ConnectedToControl: n.Status.Online,
			BlocksIncomingConnections: h.ShieldsUp, SSHEnabled: len(h.SSH_HostKeys) > 0,
		},
	}
	if u := s.User(n.Owner); u != nil {
		d.User = u.Login()
	}
	for _, p := range n.Addrs.Prefixes() {
		d.Addresses = append(d.Addresses, p.Addr().String())
	}
	if !n.Status.Online {
		d.LastSeen = stamp(n.Status.LastSeen)
	}
	if all {
		d.allFields = &allFields{
			EnabledRoutes: texts(n.Approved), AdvertisedRoutes: texts(n.Advertised()), ClientConnectivity: newConnectivity(s, n),
		}
		if h.Distro != "" {
			d.Distro = &distro{h.Distro, h.DistroVersion, h.DistroCodeName}
		}
	}
	return d
}

func newConnectivity(s *tailnet.Snapshot, n *tailnet.Node) *connectivity {
	c := &connectivity{Endpoints: texts(n.Report.Endpoints), Latency: map[string]latency{}, ClientSupports: map[string]bool{}}
	region := func(id int) string {
		if r := s.DERPMap().Regions[id]; r != nil {
			return r.RegionName
		}
		return strconv.Itoa(id)
	}
	if n.Report.HomeDERP != 0 {
		c.DERP = region(n.Report.HomeDERP)
	}
	net := n.Report.Hostinfo.NetInfo
	if net == nil {
		return c
	}
	c.MappingVariesByDestIP, _ = net.MappingVariesByDestIP.Get()
	for name, seconds := range net.DERPLatency { // "1-v4"
		number, _, _ := strings.Cut(name, "-")
		id, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		ms := seconds * 1000
		if old, ok := c.Latency[region(id)]; !ok || ms < old.LatencyMs {
			c.Latency[region(id)] = latency{LatencyMs: ms, Preferred: id == n.Report.HomeDERP}
		}
	}
	for name, opt := range map[string]interface{ Get() (bool, bool) }{
		"ipv6": net.WorkingIPv6, "udp": net.WorkingUDP, "upnp": net.UPnP, "pmp": net.PMP, "pcp": net.PCP,
	} {
		c.ClientSupports[name], _ = opt.Get()
	}
	return c
}

// texts makes an empty list of none.
func texts[T fmt.Stringer](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

func (s *Server) getRoutes(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	return routes{texts(n.Advertised()), texts(n.Approved)}, nil
}

// setRoutes approves exactly the routes of the body, also those that the device does not
// advertise yet, as the hosted service does.
func (s *Server) setRoutes(c *call) (any, error) {
	n, err := c.device()
	if err != nil {
		return nil, err
	}
	var req struct {
		Routes []netip.Prefix `json:"routes"`
	}
	if err := c.body(&req); err != nil {
		return nil, err
	}
	snap, err := c.update(func(tx *tailnet.Tx) error {
		return tx.ApproveRoutes(n.ID, tailnet.RouteEdit{Replace: true, Set: req.Routes, Force: true})
	})
	if err != nil {
		return nil, err
	}
	if n = snap.Node(n.ID); n == nil {
		return nil, tailnet.Errorf(tailnet.NotFound, "the device was removed in the same moment")
	}
	return routes{texts(n.Advertised()), texts(n.Approved)}, nil
}
