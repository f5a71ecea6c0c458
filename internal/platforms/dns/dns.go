// Package dns tests that resolvers of all kinds get the same answers through
// the Defender as without it. Its tests need root, for a network namespace of
// their own, so they hide behind the build tag "platforms".
package dns
