// Package platforms tests the built program on real platforms: containers
// under a real runtime, with the profiles that platforms give them. Its tests
// need root and take minutes, so they hide behind the build tag "platforms".
package platforms
