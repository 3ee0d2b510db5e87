package boltengine

import (
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// visitFrom is how large a file is, in bytes, whose keys are visited.
const visitFrom = 1 << 30

// visit looks up, on the caller's goroutine, the keys of a write that is about to queue for the file's one writer. In
// a large file, a page that was not read lately is a page fault, or a disk access, and those of all callers would
// otherwise come one after another while everybody waits. In a small one it would be work done twice. It returns how
// many keys were looked up.
func (e *engine) visit(transactions []statestore.Transaction) (visited int) {
	if e.fileSize.Load() < e.visitFrom {
		return 0
	}
	// What is wrong here is wrong for the writer too, who reports it.
	_ = e.db.View(func(tx *boltdb.Tx) error {
		ns, err := e.namespace(tx)
		if err != nil {
			return err
		}
		var buf [128]byte
		for i := range transactions {
			for j := range transactions[i].Writes {
				ns.Get(valueKey(buf[:0], transactions[i].Writes[j].Key))
				visited++
			}
		}
		return nil
	})
	return visited
}
