package suites

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Importing the runtime starts this one, for good.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}
