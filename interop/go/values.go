package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	wrapper "github.com/bminer/ws-server-wrapper-go"
)

func statusCode(code int) wrapper.StatusCode {
	return wrapper.StatusCode(code)
}

// thrown tells the driver of an error in the shape that it has for JavaScript's.
func thrown(err error) map[string]any {
	name := "error"
	switch {
	case errors.Is(err, context.Canceled):
		name = "context.Canceled"
	case errors.Is(err, context.DeadlineExceeded):
		name = "context.DeadlineExceeded"
	}
	return map[string]any{"is_error": true, "name": name, "message": err.Error(), "value": nil, "props": map[string]any{}}
}

// reason makes an error of what the driver gave: text, {"$error": {"message": ...}} or anything else.
func reason(value any) error {
	switch value := value.(type) {
	case nil:
		return nil
	case string:
		return errors.New(value)
	case map[string]any:
		if given, ok := value["$error"].(map[string]any); ok {
			return fmt.Errorf("%v", given["message"])
		}
	}
	text, _ := json.Marshal(value)
	return errors.New(string(text))
}
