package tailnet

import (
	"context"
	"crypto/sha256"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// Auth keys that headscale made go on working where its data was taken over. Up to its release 0.27
// they are 48 hexadecimal digits whose text it stored, so that heddle can keep them like its own. Later ones are
// hskey-auth-PUBLIC-SECRET, both of fixed length as they may hold hyphens, of which it
// stored a bcrypt hash of SECRET: that costs tens of milliseconds to check, for which the
// writer has no time, so that a key is learned before its first use.
const (
	foreignPrefix    = "hskey-auth-"
	foreignPublicLen = 12
	foreignSecretLen = 64
	hexLen           = 48
)

// maxBcryptCost bounds what one check costs: each step doubles it. headscale uses 10.
const maxBcryptCost = 12

// ForeignAuthKey returns what is kept of an auth key whose text another server knew: its name and its hash.
// ok is false if the text has not the form.
func ForeignAuthKey(secret string) (public string, hash [32]byte, ok bool) {
	public = authPublic(secret)
	return public, sha256.Sum256([]byte(secret)), public != ""
}

// authPublic returns the part of an auth key that names it; "" if the text has no form that we know.
func authPublic(secret string) string {
	if rest, ok := strings.CutPrefix(secret, foreignPrefix); ok {
		if len(rest) == foreignPublicLen+1+foreignSecretLen && rest[foreignPublicLen] == '-' {
			return rest[:foreignPublicLen]
		}
		return ""
	}
	if len(secret) == hexLen && strings.Trim(secret, "0123456789abcdef") == "" {
		return secret[:foreignPublicLen]
	}
	return publicPart(secret, authPrefix)
}

// authKeyNamed returns the auth key that a secret names, which need not be that key's secret; nil if there is none.
func (s *Snapshot) authKeyNamed(secret string) *AuthKey {
	id, _ := s.index.authKey.Get(authPublic(secret))
	return s.AuthKey(id)
}

// CheckAuthKey fails unless the secret is that of an auth key, usable or not. It learns one of which only the
// bcrypt hash was known, so that FindAuthKey finds it from then on. Whoever registers a device calls it first.
func (s *State) CheckAuthKey(ctx context.Context, secret string) error {
	secret = strings.TrimSpace(secret)
	k := s.Snapshot().authKeyNamed(secret)
	if k == nil || k.Bcrypt == "" {
		_, err := s.Snapshot().FindAuthKey(secret)
		return err
	}
	select { // one at a time: strangers who know a key's name must not take all processors
	case s.learning <- struct{}{}:
		defer func() { <-s.learning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if bcrypt.CompareHashAndPassword([]byte(k.Bcrypt), []byte(secret[len(secret)-foreignSecretLen:])) != nil {
		return errNoAuthKey
	}
	_, err := s.Update(ctx, SystemActor("auth key"), func(tx *Tx) error {
		k := tx.snap.authKeyNamed(secret)
		if k == nil || k.Bcrypt == "" {
			return nil // somebody was quicker
		}
		known := *k
		known.Hash, known.Bcrypt = sha256.Sum256([]byte(secret)), ""
		tx.putAuthKey(&known)
		return nil
	})
	return err
}

// checkBcrypt refuses what is no bcrypt hash, or takes too long to check.
func checkBcrypt(hash string) error {
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil {
		return Errorf(Invalid, "its hash is not one of bcrypt")
	}
	if cost > maxBcryptCost {
		return Errorf(Invalid, "its hash takes too long to check (cost %d, the most is %d)", cost, maxBcryptCost)
	}
	return nil
}
