//go:build platforms

package endtoend

import (
	"testing"
	"time"
)

func TestConsoleAwayForAMinute(t *testing.T) { away(t, time.Minute, 50) }
