package main

import "sync"

// entry is one thing that happened: its kind, the peer, and what belongs to the kind.
type entry map[string]any

// journal keeps what happened to the agent's peers, in order, until the driver takes it.
type journal struct {
	mutex   sync.Mutex
	changed *sync.Cond
	entries []entry
}

func newJournal() *journal {
	j := &journal{}
	j.changed = sync.NewCond(&j.mutex)
	return j
}

func (j *journal) add(e entry) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.entries = append(j.entries, e)
	j.changed.Broadcast()
}

// take removes and returns the entries of a kind and a peer, if given, once there are that many.
func (j *journal) take(kind *string, peer *int, atLeast int) []entry {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	for {
		taken, left := []entry{}, []entry{}
		for _, e := range j.entries {
			if (kind == nil || e["kind"] == *kind) && (peer == nil || e["peer"] == *peer) {
				taken = append(taken, e)
			} else {
				left = append(left, e)
			}
		}
		if len(taken) >= atLeast {
			j.entries = left
			return taken
		}
		j.changed.Wait()
	}
}
