package wrapper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// address is a channel and an event on it. id is that of an anonymous channel, or 0.
type address struct {
	channel string
	id      int
	event   string
}

func (a address) String() string {
	switch {
	case a.id != 0:
		return fmt.Sprintf("'%s' on anonymous channel %d", a.event, a.id)
	case a.channel != "":
		return fmt.Sprintf("'%s' on channel '%s'", a.event, a.channel)
	}
	return fmt.Sprintf("'%s'", a.event)
}

// handlers has one function for each address, and one more for the next time only.
type handlers struct {
	mutex  sync.Mutex
	always map[address]any
	once   map[address]any
}

func newHandlers() *handlers {
	return &handlers{always: map[address]any{}, once: map[address]any{}}
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
)

// put registers a function, or removes it if it is nil. It panics for what can be no handler.
func (h *handlers) put(at address, function any, once bool) {
	table := h.always
	if once {
		table = h.once
	}
	if function != nil && !(at.channel == "" && at.id == 0 && IsReservedEvent(at.event)) {
		t := reflect.TypeOf(function)
		if t.Kind() != reflect.Func || t.NumOut() < 1 || t.NumOut() > 2 || !t.Out(t.NumOut()-1).Implements(errorType) {
			panic(errors.New("a handler is a function that returns an error, or a value and an error"))
		}
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if function == nil {
		delete(table, at)
	} else {
		table[at] = function
	}
}

// take finds who is to handle a message; one that is there for once comes first.
func (h *handlers) take(at address) any {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if function, ok := h.once[at]; ok {
		delete(h.once, at)
		return function
	}
	return h.always[at]
}

// clear forgets all handlers of one channel.
func (h *handlers) clear(channel string, id int) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	for _, table := range []map[address]any{h.always, h.once} {
		for at := range table {
			if at.channel == channel && at.id == id {
				delete(table, at)
			}
		}
	}
}

// tell runs what is registered for the library's own events.
func (h *handlers) tell(run func(function any), events ...string) {
	for _, event := range events {
		if function := h.take(address{event: event}); function != nil {
			run(function)
		}
	}
}

// invoke converts the arguments by encoding/json and calls. Their number has to be that of the parameters.
func invoke(ctx context.Context, function any, arguments []json.RawMessage) (any, error) {
	value := reflect.ValueOf(function)
	t := value.Type()
	ins := make([]reflect.Value, 0, t.NumIn())
	if t.NumIn() > 0 && t.In(0) == contextType {
		ins = append(ins, reflect.ValueOf(ctx))
	}
	if len(arguments) != t.NumIn()-len(ins) {
		return nil, errors.New("incorrect number of arguments")
	}
	if t.NumOut() == 0 {
		// The library's own events may be asked for from outside; their handlers return nothing.
		return nil, errors.New("handler should return one or two values")
	}
	for _, argument := range arguments {
		parameter := reflect.New(t.In(len(ins)))
		if err := json.Unmarshal(argument, parameter.Interface()); err != nil {
			return nil, err
		}
		ins = append(ins, parameter.Elem())
	}
	outs := value.Call(ins)
	var result any
	if len(outs) == 2 {
		result = outs[0].Interface()
	}
	err, _ := outs[len(outs)-1].Interface().(error)
	return result, err
}
