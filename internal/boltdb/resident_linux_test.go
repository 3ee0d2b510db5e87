package boltdb

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMappedPagesAreGivenBack(t *testing.T) {
	db := open(t)
	const total = 48 << 20
	value := string(make([]byte, 64<<10))
	require.NoError(t, db.Update(t.Context(), func(tx *Tx) error {
		for i := range total / len(value) {
			if err := put(fmt.Sprint(i), value)(tx); err != nil {
				return err
			}
		}
		return nil
	}))
	readAll := func() {
		sum := 0
		require.NoError(t, db.View(func(tx *Tx) error {
			return tx.Bucket(testBucket).ForEach(func(_, v []byte) error {
				for i := 0; i < len(v); i += 4096 {
					sum += int(v[i]) + 1
				}
				return nil
			})
		}))
		require.NotZero(t, sum)
	}
	readAll()
	before := residentFileBytes()
	require.Greater(t, before, int64(total), "reading maps the file")
	require.NoError(t, db.releaseResident())
	require.Less(t, residentFileBytes(), before-total/2)
	readAll()
}
