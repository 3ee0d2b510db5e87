package access

import (
	"fmt"
	"net"
)

// Process identifies a process for as long as the machine is up. The zero value stands for one that cannot be told from
// others.
type Process struct {
	PID int `json:"pid,omitempty"`
	// Start is when the process started, in the system's units: its number may be given to another one later.
	Start uint64 `json:"start,omitempty"`
	// Handle identifies a process outside our PID namespace, which has no number here: it is the inode of its pidfd.
	Handle uint64 `json:"handle,omitempty"`
}

// Known reports whether p can be told from other processes.
func (p Process) Known() bool { return p != Process{} }

// Ended reports whether the process is known to have ended. Of one outside our PID namespace that is never known.
func (p Process) Ended() bool { return p.PID != 0 && processStart(p.PID) != p.Start }

func (p Process) String() string {
	if p.PID == 0 {
		return "a process that cannot be named"
	}
	if name := processName(p.PID); name != "" {
		return fmt.Sprintf("process %d (%s)", p.PID, name)
	}
	return fmt.Sprintf("process %d", p.PID)
}

// Peer is the process at the other end of a connection over a Unix socket, as it was when it connected or began to
// listen.
type Peer struct {
	Process
	UID, GID uint32
	// Groups are its supplementary ones.
	Groups []uint32
}

func (p Peer) String() string {
	return fmt.Sprintf("%s of user %d, group %d", p.Process, p.UID, p.GID)
}

// PeerOf returns who is at the other end of a connection over a Unix socket. It returns an error where the system does
// not say.
func PeerOf(c net.Conn) (Peer, error) {
	if known, ok := c.(*connection); ok {
		return known.peer, known.peerErr
	}
	return peerOf(c)
}
