package packages

import (
	"crypto"
	"encoding/base64"
)

// apkSum reads a digest of apk: base64 behind Q1 (SHA-1) or Q2 (SHA-256).
func apkSum(value []byte) (crypto.Hash, []byte) {
	if len(value) < 2 || value[0] != 'Q' {
		return 0, nil
	}
	sum, err := base64.StdEncoding.DecodeString(string(value[2:]))
	switch {
	case err != nil:
	case value[1] == '1' && len(sum) == crypto.SHA1.Size():
		return crypto.SHA1, sum
	case value[1] == '2' && len(sum) == crypto.SHA256.Size():
		return crypto.SHA256, sum
	}
	return 0, nil
}
