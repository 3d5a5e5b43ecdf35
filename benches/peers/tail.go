// Sends requests by a schedule through net/http: SCHEDULE URL SOCKETS. A line for each: its latency from the time in the
// schedule, in microseconds, or `-` where it was not answered.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	sockets, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	client := http.Client{
		Transport: &http.Transport{MaxConnsPerHost: sockets, MaxIdleConnsPerHost: sockets},
		Timeout:   20 * time.Second,
	}
	lines := strings.Fields(string(text))
	latencies := make([]string, len(lines))
	var all sync.WaitGroup
	begun := time.Now()
	for place, line := range lines {
		micros, err := strconv.Atoi(line)
		if err != nil {
			panic(err)
		}
		arrival := begun.Add(time.Duration(micros) * time.Microsecond)
		time.Sleep(time.Until(arrival))
		all.Add(1)
		go func(place int) {
			defer all.Done()
			latencies[place] = "-"
			response, err := client.Get(os.Args[2])
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if err == nil && response.StatusCode == 200 {
				latencies[place] = strconv.FormatInt(time.Since(arrival).Microseconds(), 10)
			}
		}(place)
	}
	all.Wait()
	out := bufio.NewWriter(os.Stdout)
	for _, latency := range latencies {
		fmt.Fprintln(out, latency)
	}
	out.Flush()
}
