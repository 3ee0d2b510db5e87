package statestore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACollectorHoldsOnePage(t *testing.T) {
	plan, err := newQueryPlan(Query{Sort: []SortKey{{Path: "n", Descending: true}}})
	require.NoError(t, err)
	c := &collector{plan: plan}
	pad := strings.Repeat("x", 1<<20)
	// Each comes before all those that came before it.
	for i := range 50 {
		require.True(t, c.offer(fmt.Append(nil, "k", i), fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, pad), false))
		require.LessOrEqual(t, len(c.best), 5)
	}
	require.True(t, c.more)
	for i := range 10 * MaxQueryLimit {
		c.offer(fmt.Append(nil, "s", i), fmt.Appendf(nil, `{"n":%d}`, 1000+i), false)
		require.LessOrEqual(t, len(c.best), MaxQueryLimit)
	}
}
