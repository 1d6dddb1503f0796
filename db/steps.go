package db

// A step takes the schema from one version to the next; its version is its
// place in steps, counted from 1. Steps that were released are never edited.
// Their SQL is what SQLite and PostgreSQL have in common; {bytes} stands for
// the one type that they name differently.
type step struct {
	name       string
	statements []string
}

var steps = []step{
	{"tailnets, nodes, users, keys, settings, policies, audit", firstSchema},
	{"people: identities, approvals, owners of API keys, reasons", peopleSchema},
	{"log of changes", changeLog},
	{"audit log by time, webhooks", webhookSchema},
	{"OAuth clients and federated identities", clientSchema},
	{"posture attributes", []string{`ALTER TABLE nodes ADD COLUMN attrs TEXT NOT NULL DEFAULT '{}'`}},
	{"auth keys of headscale", []string{`ALTER TABLE auth_keys ADD COLUMN bcrypt TEXT NOT NULL DEFAULT ''`}},
	{"devices on hold", []string{`ALTER TABLE nodes ADD COLUMN held BOOLEAN NOT NULL DEFAULT FALSE`}},
}

// The store holds no rules, so the tailnet is the only foreign key. The unique
// indexes are the last line of defence for what the model promises.
var firstSchema = []string{
	`CREATE TABLE tailnets (
		name          TEXT   NOT NULL PRIMARY KEY,
		seq           BIGINT NOT NULL,
		last_node     BIGINT NOT NULL,
		last_user     BIGINT NOT NULL,
		last_auth_key BIGINT NOT NULL,
		last_api_key  BIGINT NOT NULL,
		last_audit    BIGINT NOT NULL
	)`,

	`CREATE TABLE nodes (
		tailnet     TEXT    NOT NULL REFERENCES tailnets (name),
		id          BIGINT  NOT NULL,
		stable_id   TEXT    NOT NULL,
		machine_key TEXT    NOT NULL,
		node_key    TEXT    NOT NULL,
		owner       BIGINT  NOT NULL,
		tags        TEXT    NOT NULL,
		name        TEXT    NOT NULL,
		fixed       BOOLEAN NOT NULL,
		ipv4        TEXT,
		ipv6        TEXT,
		expiry      TEXT,
		ephemeral   BOOLEAN NOT NULL,
		approved    TEXT    NOT NULL,
		created_at  TEXT,
		method      TEXT    NOT NULL,
		auth_key    BIGINT  NOT NULL,
		disco_key   TEXT,
		endpoints   TEXT    NOT NULL,
		home_derp   BIGINT  NOT NULL,
		cap_ver     BIGINT  NOT NULL,
		hostinfo    TEXT    NOT NULL,
		online      BOOLEAN NOT NULL,
		last_seen   TEXT,
		PRIMARY KEY (tailnet, id)
	)`,
	`CREATE UNIQUE INDEX nodes_node_key ON nodes (tailnet, node_key)`,
	`CREATE UNIQUE INDEX nodes_name ON nodes (tailnet, name)`,
	`CREATE UNIQUE INDEX nodes_ipv4 ON nodes (tailnet, ipv4)`,
	`CREATE UNIQUE INDEX nodes_ipv6 ON nodes (tailnet, ipv6)`,

	`CREATE TABLE users (
		tailnet      TEXT   NOT NULL REFERENCES tailnets (name),
		id           BIGINT NOT NULL,
		name         TEXT   NOT NULL,
		display_name TEXT   NOT NULL,
		email        TEXT   NOT NULL,
		picture_url  TEXT   NOT NULL,
		role         TEXT   NOT NULL,
		created_at   TEXT,
		PRIMARY KEY (tailnet, id)
	)`,
	`CREATE UNIQUE INDEX users_name ON users (tailnet, name)`,

	`CREATE TABLE auth_keys (
		tailnet     TEXT    NOT NULL REFERENCES tailnets (name),
		id          BIGINT  NOT NULL,
		public      TEXT    NOT NULL,
		hash        {bytes} NOT NULL,
		owner       BIGINT  NOT NULL,
		tags        TEXT    NOT NULL,
		reusable    BOOLEAN NOT NULL,
		ephemeral   BOOLEAN NOT NULL,
		description TEXT    NOT NULL,
		created_at  TEXT,
		expires_at  TEXT,
		used_at     TEXT,
		revoked_at  TEXT,
		PRIMARY KEY (tailnet, id)
	)`,
	`CREATE UNIQUE INDEX auth_keys_public ON auth_keys (tailnet, public)`,

	`CREATE TABLE api_keys (
		tailnet    TEXT    NOT NULL REFERENCES tailnets (name),
		id         BIGINT  NOT NULL,
		public     TEXT    NOT NULL,
		hash       {bytes} NOT NULL,
		role       TEXT    NOT NULL,
		created_at TEXT,
		expires_at TEXT,
		revoked_at TEXT,
		used_at    TEXT,
		PRIMARY KEY (tailnet, id)
	)`,
	`CREATE UNIQUE INDEX api_keys_public ON api_keys (tailnet, public)`,

	`CREATE TABLE tombstones (
		tailnet     TEXT   NOT NULL REFERENCES tailnets (name),
		node_key    TEXT   NOT NULL,
		machine_key TEXT   NOT NULL,
		node_id     BIGINT NOT NULL,
		stable_id   TEXT   NOT NULL,
		name        TEXT   NOT NULL,
		ipv4        TEXT,
		ipv6        TEXT,
		owner       BIGINT NOT NULL,
		ends_at   TEXT,
		PRIMARY KEY (tailnet, node_key)
	)`,

	`CREATE TABLE settings (
		tailnet TEXT NOT NULL PRIMARY KEY REFERENCES tailnets (name),
		data    TEXT NOT NULL
	)`,

	`CREATE TABLE policies (
		tailnet    TEXT   NOT NULL REFERENCES tailnets (name),
		seq        BIGINT NOT NULL,
		source     TEXT   NOT NULL,
		etag       TEXT   NOT NULL,
		updated_at TEXT,
		updated_by TEXT   NOT NULL,
		PRIMARY KEY (tailnet, seq)
	)`,

	`CREATE TABLE audit (
		tailnet    TEXT   NOT NULL REFERENCES tailnets (name),
		id         BIGINT NOT NULL,
		seq        BIGINT NOT NULL,
		at         TEXT,
		actor_kind TEXT   NOT NULL,
		actor_name TEXT   NOT NULL,
		actor_role TEXT   NOT NULL,
		actor_from TEXT   NOT NULL,
		action     TEXT   NOT NULL,
		target     TEXT   NOT NULL,
		changes    TEXT   NOT NULL,
		PRIMARY KEY (tailnet, id)
	)`,
}

var peopleSchema = []string{
	`ALTER TABLE users ADD COLUMN status TEXT NOT NULL DEFAULT 'active'`,
	`ALTER TABLE users ADD COLUMN identities TEXT NOT NULL DEFAULT '[]'`,
	`ALTER TABLE users ADD COLUMN idp_groups TEXT NOT NULL DEFAULT '[]'`,
	`ALTER TABLE nodes ADD COLUMN no_expiry BOOLEAN NOT NULL DEFAULT FALSE`,
	`ALTER TABLE nodes ADD COLUMN pending BOOLEAN NOT NULL DEFAULT FALSE`,
	`ALTER TABLE auth_keys ADD COLUMN approved BOOLEAN NOT NULL DEFAULT FALSE`,
	`ALTER TABLE api_keys ADD COLUMN owner BIGINT NOT NULL DEFAULT 0`,
	`ALTER TABLE api_keys ADD COLUMN scopes TEXT NOT NULL DEFAULT '[]'`,
	`ALTER TABLE api_keys ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'`,
	`ALTER TABLE api_keys ADD COLUMN description TEXT NOT NULL DEFAULT ''`,
	`ALTER TABLE audit ADD COLUMN actor_user BIGINT NOT NULL DEFAULT 0`,
	`ALTER TABLE audit ADD COLUMN reason TEXT NOT NULL DEFAULT ''`,
}

var clientSchema = []string{
	`ALTER TABLE api_keys ADD COLUMN kind TEXT NOT NULL DEFAULT 'api'`,
	`ALTER TABLE api_keys ADD COLUMN parent BIGINT NOT NULL DEFAULT 0`,
	`ALTER TABLE api_keys ADD COLUMN trust TEXT NOT NULL DEFAULT 'null'`,
}
