package databases

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
)

// openFile opens the file at path and makes sure that it is still the one that path names. A lock belongs to a file,
// not to its name: whoever waited for the lock while Compact put a new file in its place would get the lock on the old
// one, and all that it then wrote would be gone.
func openFile(ctx context.Context, path string, opts boltdb.Options) (*boltdb.DB, error) {
	for {
		before, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open database: %w", err)
		}
		db, err := boltdb.Open(ctx, path, opts)
		if err != nil {
			return nil, err
		}
		after, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("open database: %w", errors.Join(err, db.Close()))
		}
		if before == nil || os.SameFile(before, after) {
			return db, nil
		}
		if err := db.Close(); err != nil {
			return nil, err
		}
	}
}
