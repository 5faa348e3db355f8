package wrapper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Message is whatever travels. Its types are what makes the library strict: a message that does not fit them ends the
// connection. As encoding/json has it, a null fits everything but a flag, and no fraction is an integer, 1.0 included.
type Message struct {
	Channel          string            `json:"c,omitempty"`
	AnonymousChannel int               `json:"h,omitempty"`
	Arguments        []json.RawMessage `json:"a,omitempty"`
	RequestID        *int              `json:"i,omitempty"`
	ResponseData     any               `json:"d,omitempty"`
	ResponseError    any               `json:"e,omitempty"`
	ResponseJSError  flag              `json:"_,omitempty"`
	CancelReason     any               `json:"x,omitempty"`
	IgnoreIfFalse    *flag             `json:"ws-wrapper,omitempty"`
}

// flag is a boolean that may be written as a digit.
type flag bool

func (f *flag) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "1", "true":
		*f = true
	case "0", "false":
		*f = false
	default:
		return fmt.Errorf("invalid value for boolean: %s", data)
	}
	return nil
}

// EventName is empty where the message is no event or request.
func (m Message) EventName() string {
	var name string
	if len(m.Arguments) > 0 && json.Unmarshal(m.Arguments[0], &name) == nil {
		return name
	}
	return ""
}

// HandlerArguments are those after the name.
func (m Message) HandlerArguments() []json.RawMessage {
	if len(m.Arguments) == 0 {
		return nil
	}
	return m.Arguments[1:]
}

// Response is what a request was answered with. A rejection with null is taken for success.
func (m Message) Response() (any, error) {
	if m.ResponseError == nil {
		return m.ResponseData, nil
	}
	text, err := m.text(m.ResponseError, "response is a malformed JavaScript error")
	if err != nil {
		return nil, err
	}
	if text == nil {
		return nil, errors.New("response error is not a string")
	}
	return nil, errors.New(*text)
}

// CancelCause is why a request was cancelled or a channel aborted.
func (m Message) CancelCause() error {
	text, err := m.text(m.CancelReason, "cancel reason is a malformed JavaScript error")
	if err != nil {
		return err
	}
	if text == nil {
		return context.Canceled
	}
	return errors.New(*text)
}

// text is all that is kept of an error: its message, or the value where that is text.
func (m Message) text(value any, malformed string) (*string, error) {
	if m.ResponseJSError {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: not an object", malformed)
		}
		if value, ok = object["message"].(string); !ok {
			return nil, fmt.Errorf("%s: message key is not a string", malformed)
		}
	}
	if text, ok := value.(string); ok {
		return &text, nil
	}
	return nil, nil
}

// thrown is how an error travels: its text and a flag, without further fields.
func thrown(err error) (map[string]any, flag) {
	return map[string]any{"message": err.Error()}, true
}
