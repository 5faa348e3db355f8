// Calls the server of docs/how-to/http.md from Go, without packages: a call, an error, and a run.
//
//	go run client.go [url]
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// Failed is an error of the server. Code is for programs.
type Failed struct {
	Message string
	Code    any
	Data    json.RawMessage
}

func (failed Failed) Error() string { return fmt.Sprintf("%v: %s", failed.Code, failed.Message) }

// post sends arguments, by name. An error is Failed unless it may be another one soon.
func post(url string, args map[string]any, position string) (*http.Response, error) {
	body, _ := json.Marshal(args)
	request, err := http.NewRequest("POST", url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer t-4711")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Last-Event-ID", position)
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode < 300 {
		return response, err
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode == 429 || response.StatusCode >= 502 {
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return nil, failedOf(text)
}

func failedOf(text []byte) error {
	var found struct{ Error Failed }
	if err := json.Unmarshal(text, &found); err != nil { // it is from a proxy
		return Failed{Message: string(text)}
	}
	return found.Error
}

// read passes on the items of a run, which it starts or joins. After a drop, it continues where it was.
func read(url string, args map[string]any, item func(data string)) error {
	position, ended := "", false
	for {
		response, err := post(url, args, position)
		if err == nil {
			position, ended, err = events(response, position, item)
		}
		if _, failed := err.(Failed); failed || ended {
			return err
		}
		time.Sleep(time.Second)
	}
}

// events reads server-sent events. It returns the last position, and whether that is the end.
func events(response *http.Response, position string, item func(data string)) (string, bool, error) {
	defer response.Body.Close()
	id, event, data := position, "", ""
	silent := time.AfterFunc(30*time.Second, func() { response.Body.Close() }) // there is a comment every 15 seconds
	defer silent.Stop()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		silent.Reset(30 * time.Second)
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "id":
			id = value
		case name == "event":
			event = value
		case name == "data":
			data = value
		case name == "" && event == "end":
			return id, true, nil
		case name == "" && event == "cut":
			return position, false, nil
		case name == "" && event != "":
			return id, true, failedOf([]byte(data))
		case name == "" && data != "":
			item(data)
			position, data = id, ""
		}
	}
	return position, response.StatusCode == 204, lines.Err()
}

func main() {
	url := "http://127.0.0.1:8000"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	for _, b := range []any{3, "x"} {
		response, err := post(url+"/call/add", map[string]any{"a": 2, "b": b}, "")
		if err != nil {
			fmt.Println(err)
			continue
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Println(string(text))
	}
	run := fmt.Sprintf("%s/runs/answer/%d", url, time.Now().UnixNano())
	err := read(run, map[string]any{"question": "Why?"}, func(data string) { fmt.Println(data) })
	if err != nil {
		fmt.Println(err)
	}
}
