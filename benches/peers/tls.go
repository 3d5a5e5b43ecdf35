// Sends requests over TLS 1.3 through net/http: SERVER ROOT full|resumed|kept CALLERS LENGTH REQUESTS. It says `ready` when it is warm,
// waits for a line, sends its requests, and says how many seconds they took.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	root, err := os.ReadFile(os.Args[2])
	if err != nil {
		panic(err)
	}
	mode := os.Args[3]
	callers, length, requests := number(4), number(5), number(6)
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	config.RootCAs.AppendCertsFromPEM(root)
	if mode == "resumed" {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig:     config,
		MaxConnsPerHost:     callers,
		MaxIdleConnsPerHost: callers,
		DisableKeepAlives:   mode != "kept",
		DisableCompression:  true,
	}}
	url := fmt.Sprintf("https://%s/%d", os.Args[1], length)
	send := func(requests int) {
		left := int64(requests)
		var all sync.WaitGroup
		for caller := 0; caller < callers; caller++ {
			all.Add(1)
			go func() {
				defer all.Done()
				for atomic.AddInt64(&left, -1) >= 0 {
					response, err := client.Get(url)
					if err != nil {
						panic(err)
					}
					read, err := io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if err != nil || int(read) != length {
						panic(fmt.Sprint("read ", read, ": ", err))
					}
				}
			}()
		}
		all.Wait()
	}
	// All callers at the same time, a few times, so that each has had a connection or a session.
	send(callers * 20)
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	in.ReadString('\n')
	begun := time.Now()
	send(requests)
	fmt.Println(time.Since(begun).Seconds())
	in.ReadString('\n')
}

func number(place int) int {
	number, err := strconv.Atoi(os.Args[place])
	if err != nil {
		panic(err)
	}
	return number
}
