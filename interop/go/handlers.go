package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf16"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

// speaker is a channel of any kind.
type speaker interface {
	Emit(ctx context.Context, arguments ...any) error
	Request(ctx context.Context, arguments ...any) (any, error)
}

// registering puts one handler on a channel; what `On` returns is of another type on each kind of channel.
type registering func(event string, function any)

func indexIn(ctx context.Context) int {
	return wrapper.ClientFromContext(ctx).Get("index").(int)
}

// attach gives a main or named channel its handlers. label is how the journal calls it, which is nil or its name.
func (p *peers) attach(label any, on registering) {
	p.attachTo(label, on, func(ctx context.Context) speaker {
		client := wrapper.ClientFromContext(ctx)
		if name, ok := label.(string); ok {
			return client.Of(name)
		}
		return client
	})
}

// attachTo is for any channel; back is where "ask" asks.
func (p *peers) attachTo(label any, on registering, back func(context.Context) speaker) {
	on("echo", func(value any) (any, error) { return value, nil })
	on("args", func(list []any) ([]any, error) { return list, nil })
	on("add", func(a, b float64) (float64, error) { return a + b, nil })
	on("nothing", func() error { return nil })
	on("nil", func() (any, error) { return nil, nil })
	on("blob", func(n int) (string, error) { return strings.Repeat("x", n), nil })
	on("size", func(text string) (int, error) { return len(utf16.Encode([]rune(text))), nil })
	on("fail", func(kind string) (any, error) { return nil, errors.New("it failed") })
	on("log", func(list []json.RawMessage) error { return nil }) // the journal has it from `note`
	on("hang", func(ctx context.Context, list []any) (any, error) {
		peer := indexIn(ctx)
		p.journal.add(entry{"kind": "started", "peer": peer, "channel": label, "event": "hang"})
		<-ctx.Done()
		why := thrown(context.Cause(ctx))
		p.journal.add(entry{"kind": "aborted", "peer": peer, "channel": label, "event": "hang", "reason": why})
		return nil, errors.New("hang was aborted")
	})
	on("wait", func(ctx context.Context, list []string) (any, error) {
		p.madeFor(ctx, len(list) > 1 && list[1] == "channel")
		p.journal.add(entry{"kind": "started", "peer": indexIn(ctx), "channel": label, "event": "wait"})
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	on("ask", func(ctx context.Context, list []any) (any, error) { return back(ctx).Request(ctx, list...) })
	on("askMany", func(ctx context.Context, event string, n int) ([]any, error) {
		return askMany(ctx, back(ctx), event, n)
	})
	on("nils", func() (map[string]any, error) {
		return map[string]any{"slice": []int(nil), "map": map[string]int(nil), "bytes": []byte(nil), "empty": []int{}}, nil
	})
	on("when", func(at time.Time) (time.Time, error) { return at, nil })
	on("twice", func(duration time.Duration) (time.Duration, error) { return 2 * duration, nil })
	on("variadic", func(list ...int) (int, error) { return len(list), nil })
	p.attachStreams(on)
}

func askMany(ctx context.Context, to speaker, event string, n int) ([]any, error) {
	values, errs := make([]any, n), make(chan error, n)
	for k := range n {
		go func() {
			var err error
			values[k], err = to.Request(ctx, event, k, 1)
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return values, nil
}
