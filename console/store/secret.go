package store

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// newSecret returns 256 random bits as text. They cannot be guessed, so a
// plain hash of them is enough.
func newSecret(prefix string) string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

// NewPassword makes a password of 120 bits that can be read out.
func NewPassword() string {
	s := strings.ToLower(rand.Text())[:24]
	return s[:6] + "-" + s[6:12] + "-" + s[12:18] + "-" + s[18:]
}

func hashSecret(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

func newInstance() string {
	b := make([]byte, 12)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// The cost of a password, as OWASP recommends for argon2id: 19 MiB, two
// passes.
const (
	argonMemory  = 19 << 10 // KiB
	argonPasses  = 2
	argonThreads = 1
	argonKey     = 32
)

// slots bounds how many passwords are hashed at once, and with them the
// memory.
var slots = make(chan struct{}, 4)

// Passwords are between these lengths, in bytes.
const (
	MinPassword = 10
	MaxPassword = 512
)

// hashPassword returns the password's hash in PHC form.
func hashPassword(password string) (string, error) {
	switch {
	case len(password) < MinPassword:
		return "", fmt.Errorf("the password is shorter than %d characters", MinPassword)
	case len(password) > MaxPassword:
		return "", fmt.Errorf("the password is longer than %d bytes", MaxPassword)
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	key := argon(password, salt, argonPasses, argonMemory, argonThreads)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonPasses, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

func argon(password string, salt []byte, passes, memory uint32, threads uint8) []byte {
	slots <- struct{}{}
	defer func() { <-slots }()
	return argon2.IDKey([]byte(password), salt, passes, memory, threads, argonKey)
}

// checkPassword reports whether hash is the password's. What hash is "", it
// takes as long and says no.
func checkPassword(hash, password string) (bool, error) {
	if len(password) > MaxPassword {
		return false, nil
	}
	if hash == "" {
		argon(password, make([]byte, 16), argonPasses, argonMemory, argonThreads)
		return false, nil
	}
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("reading a password's hash: unknown form")
	}
	var memory, passes uint32
	var threads uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil {
		return false, fmt.Errorf("reading a password's hash: %w", err)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fmt.Errorf("reading a password's hash: %w", err)
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil {
		return false, fmt.Errorf("reading a password's hash: %w", err)
	}
	return subtle.ConstantTimeCompare(argon(password, salt, passes, memory, threads), want) == 1, nil
}
