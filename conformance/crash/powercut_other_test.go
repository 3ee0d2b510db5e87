//go:build !linux

package crash

import "testing"

func TestPowerCuts(t *testing.T) { t.Skip(noPower) }
