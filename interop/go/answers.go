package main

import (
	"context"
	"fmt"
	"sync"
)

// answers are what handlers give when the driver tells them to, each under a key of its own.
type answers struct {
	mutex sync.Mutex
	given map[string]chan error
}

func newAnswers() *answers {
	return &answers{given: map[string]chan error{}}
}

// to waits for a key; it fails if that is to fail, or with the context.
func (a *answers) to(ctx context.Context, key string) error {
	select {
	case err := <-a.entry(key):
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *answers) give(key string, fail bool) {
	var err error
	if fail {
		err = fmt.Errorf("no %s", key)
	}
	a.entry(key) <- err
}

func (a *answers) entry(key string) chan error {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.given[key] == nil {
		a.given[key] = make(chan error, 1)
	}
	return a.given[key]
}
