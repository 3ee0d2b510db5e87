package boltdb

const (
	// The file is allocated ahead in steps of an eighth of its size, within these bounds, in bytes.
	minAllocation = 256 << 10
	maxAllocation = 16 << 20
	// What large writes leave for small ones, and those for checkpoints, on a full disk, in bytes.
	roomForSmall       = 512 << 10
	roomForCheckpoints = 256 << 10
)

// reserve makes sure that a transaction of so many bytes of pages finds room, in free pages or on the disk, and leaves
// some.
func (db *DB) reserve(bytes, leaves int64) error {
	stats := db.bolt.Stats()
	to := db.fileSize + bytes + leaves - int64(stats.FreePageN)*int64(db.bolt.Info().PageSize)
	if to <= db.allocated {
		return nil
	}
	ahead := min(max(db.fileSize/8, minAllocation), maxAllocation)
	if err := db.disk.Allocate(db.allocated, to+ahead); err != nil {
		// Close to the end of the disk there may be room for this one.
		if err := db.disk.Allocate(db.allocated, to); err != nil {
			return err
		}
		db.allocated = to
		return nil
	}
	db.allocated = to + ahead
	return nil
}
