package db

// The row structs mirror the tables of steps.go, column by column. JSON
// columns hold text. Times are text as in timeLayout; NULL is the zero time.
// A NULL address or discovery key is the zero value; a zero ID is "none".

// rowKey is the primary key of things that have an ID in a tailnet.
type rowKey struct {
	Tailnet string `gorm:"primaryKey"`
	ID      int64  `gorm:"primaryKey;autoIncrement:false"`
}

type tailnetRow struct {
	Name        string `gorm:"primaryKey"`
	Seq         int64
	LastNode    int64
	LastUser    int64
	LastAuthKey int64
	LastAPIKey  int64 `gorm:"column:last_api_key"`
	LastAudit   int64
}

type nodeRow struct {
	Key        rowKey `gorm:"embedded"`
	StableID   string
	MachineKey string
	NodeKey    string
	Owner      int64
	Tags       string // JSON
	Name       string
	Fixed      bool
	Addrs      addrColumns `gorm:"embedded"`
	Expiry     *string
	Terms      termsColumns  `gorm:"embedded"`
	Approved   string        // JSON
	Origin     originColumns `gorm:"embedded"`
	Report     reportColumns `gorm:"embedded"`
	Status     statusColumns `gorm:"embedded"`
}

type addrColumns struct {
	IPv4 *string `gorm:"column:ipv4"`
	IPv6 *string `gorm:"column:ipv6"`
}

type termsColumns struct {
	Ephemeral bool
	NoExpiry  bool
	Pending   bool
	Held      bool
	Attrs     string // JSON of map[string]attributeJSON
}

type originColumns struct {
	CreatedAt  *string
	Method     string
	AuthKeyRef int64 `gorm:"column:auth_key"`
}

type reportColumns struct {
	DiscoKey  *string
	Endpoints string // JSON
	HomeDERP  int    `gorm:"column:home_derp"`
	CapVer    int
	Hostinfo  string // JSON, as on the wire
}

type statusColumns struct {
	Online   bool
	LastSeen *string
}

type userRow struct {
	Key         rowKey `gorm:"embedded"`
	Name        string
	DisplayName string
	Email       string
	PictureURL  string `gorm:"column:picture_url"`
	Role        string
	Status      string
	Identities  string // JSON of []identityJSON
	Groups      string `gorm:"column:idp_groups"` // JSON
	CreatedAt   *string
}

type authKeyRow struct {
	Key         rowKey `gorm:"embedded"`
	Public      string
	Hash        []byte // SHA-256 of the secret
	Bcrypt      string
	Owner       int64
	Tags        string // JSON
	Reusable    bool
	Ephemeral   bool
	Approved    bool
	Description string
	CreatedAt   *string
	ExpiresAt   *string
	UsedAt      *string
	RevokedAt   *string
}

type apiKeyRow struct {
	Key         rowKey      `gorm:"embedded"`
	Kind        kindColumns `gorm:"embedded"`
	Public      string
	Hash        []byte // SHA-256 of the secret
	Owner       int64
	Role        string
	Scopes      string // JSON
	Tags        string // JSON
	Description string
	CreatedAt   *string
	ExpiresAt   *string
	RevokedAt   *string
	UsedAt      *string
}

type kindColumns struct {
	Kind   string
	Parent int64
	Trust  string // JSON of trustJSON, or null
}

type tombstoneRow struct {
	Tailnet    string `gorm:"primaryKey"`
	NodeKey    string `gorm:"primaryKey"`
	MachineKey string
	NodeID     int64
	StableID   string
	Name       string
	Addrs      addrColumns `gorm:"embedded"`
	Owner      int64
	EndsAt     *string
}

type settingsRow struct {
	Tailnet string `gorm:"primaryKey"`
	Data    string // JSON of settingsJSON
}

// A policyRow is one version of a policy, named by the commit that brought it.
type policyRow struct {
	Tailnet   string `gorm:"primaryKey"`
	Seq       int64  `gorm:"primaryKey;autoIncrement:false"`
	Source    string
	ETag      string `gorm:"column:etag"`
	UpdatedAt *string
	UpdatedBy string
}

// An auditRow is an entry of the audit log, numbered in its tailnet from 1.
type auditRow struct {
	Key       rowKey `gorm:"embedded"`
	Seq       int64  // the commit that it belongs to
	At        *string
	ActorKind string
	ActorName string
	ActorRole string
	ActorFrom string
	ActorUser int64
	Reason    string
	Action    string
	Target    string
	Changes   string // JSON of []changeJSON
}

type migrationRow struct {
	Version   int `gorm:"primaryKey;autoIncrement:false"`
	Name      string
	AppliedAt *string
}

// A row knows its table and what names it there within its tailnet.
type row interface {
	TableName() string
	id() any
}

func (tailnetRow) TableName() string   { return "tailnets" }
func (nodeRow) TableName() string      { return "nodes" }
func (userRow) TableName() string      { return "users" }
func (authKeyRow) TableName() string   { return "auth_keys" }
func (apiKeyRow) TableName() string    { return "api_keys" }
func (tombstoneRow) TableName() string { return "tombstones" }
func (settingsRow) TableName() string  { return "settings" }
func (policyRow) TableName() string    { return "policies" }
func (auditRow) TableName() string     { return "audit" }
func (migrationRow) TableName() string { return "heddle_migrations" }

func (r nodeRow) id() any      { return r.Key.ID }
func (r userRow) id() any      { return r.Key.ID }
func (r authKeyRow) id() any   { return r.Key.ID }
func (r apiKeyRow) id() any    { return r.Key.ID }
func (r tombstoneRow) id() any { return r.NodeKey }
func (r settingsRow) id() any  { return r.Tailnet }
func (r policyRow) id() any    { return r.Seq }
func (r auditRow) id() any     { return r.Key.ID }

// The JSON of the settings and audit columns. Their form is part of the
// schema: a field that is added or renamed needs a migration step, because an
// older heddle refuses JSON that it does not know in full.
type (
	settingsJSON struct {
		DNS       dnsJSON        `json:"dns"`
		Admission *admissionJSON `json:"admission,omitempty"` // since schema 2
		Webhooks  []webhookJSON  `json:"webhooks,omitempty"`  // since schema 4
		Contacts  *contactsJSON  `json:"contacts,omitempty"`  // since schema 7
	}
	contactsJSON struct {
		Account  string `json:"account,omitempty"`
		Support  string `json:"support,omitempty"`
		Security string `json:"security,omitempty"`
	}
	webhookJSON struct {
		ID       string   `json:"id"`
		URL      string   `json:"url"`
		Provider string   `json:"provider,omitempty"`
		Events   []string `json:"events"`
		Secret   string   `json:"secret"`
		Creator  string   `json:"creator,omitempty"`
		Created  *string  `json:"created"`
		Changed  *string  `json:"changed"`
	}
	admissionJSON struct {
		DeviceApproval bool  `json:"deviceApproval"`
		UserApproval   bool  `json:"userApproval"`
		KeyExpiry      int64 `json:"keyExpirySeconds"` // 0: the config's; -1: never
	}
	attributeJSON struct {
		Value   any     `json:"value"`
		Expires *string `json:"expires,omitempty"`
	}
	trustJSON struct {
		Issuer   string            `json:"iss"`
		Subject  string            `json:"sub"`
		Audience string            `json:"aud"`
		Claims   map[string]string `json:"claims,omitempty"`
	}
	identityJSON struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
	}
	dnsJSON struct {
		MagicDNS      bool                `json:"magicDNS"`
		OverrideLocal bool                `json:"overrideLocal"`
		Nameservers   []string            `json:"nameservers,omitempty"`
		Split         map[string][]string `json:"split,omitempty"`
		Search        []string            `json:"search,omitempty"`
		Records       []recordJSON        `json:"records,omitempty"`
	}
	recordJSON struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	changeJSON struct {
		Field string `json:"field"`
		From  string `json:"from"`
		To    string `json:"to"`
	}
)
