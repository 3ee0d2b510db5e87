//go:build !linux

package powercut

import "testing"

func TestPowerCuts(t *testing.T) { t.Skip(noPower) }
