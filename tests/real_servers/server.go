// Go's net/http: closes what is idle for a second.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

type uses struct{}

func main() {
	log, err := os.OpenFile(os.Args[2], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		use := atomic.AddInt64(r.Context().Value(uses{}).(*int64), 1)
		id := r.URL.Query().Get("id")
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(log, "%s %s %d\n", r.Method, id, use)
		io.WriteString(w, id)
	}
	server := http.Server{
		Addr:        os.Args[1],
		Handler:     http.HandlerFunc(answer),
		IdleTimeout: time.Second,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, uses{}, new(int64))
		},
	}
	panic(server.ListenAndServe())
}
