package statestore

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestACollectorHoldsOnePage(t *testing.T) {
	plan, err := newQueryPlan(Query{Sort: []SortKey{{Path: "n", Descending: true}}})
	require.NoError(t, err)
	c := &collector{plan: plan, meter: meter{ctx: t.Context()}}
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

func TestAQueryExaminesLittleAfterItsContext(t *testing.T) {
	var filter Or
	for i := range 100 {
		filter = append(filter, &Comparison{Op: OpEqual, Path: fmt.Sprintf("a%d.b", i), Value: true})
	}
	for _, size := range []int{100, 100 << 10, 1 << 20, MaxValueSize} {
		for name, query := range map[string]Query{
			"all": {}, "one part": {Filter: filter[0]}, "all parts": {Filter: filter}, "sorted": {Sort: []SortKey{{Path: "a"}, {Path: "b"}}},
		} {
			plan, err := newQueryPlan(query)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			c := &collector{plan: plan, meter: meter{ctx: ctx}}
			value := []byte(`{"a":"` + strings.Repeat("x", size) + `"}`)
			c.offer([]byte("before"), value, false)
			cancel()
			before := c.meter.examined
			for i := 0; i < 20_000 && c.offer(fmt.Append(nil, "k", i), value, false); i++ {
			}
			require.LessOrEqual(t, c.meter.examined-before, 1<<20, "%s, values of %d bytes", name, size)
		}
	}
}
