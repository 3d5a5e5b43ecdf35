// Go's net/http: closes what is idle for a second. With a certificate and a key it speaks HTTP/2, and says GOAWAY after each
// thousandth request of a connection.
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
		if r.ProtoMajor == 2 && use%1000 == 0 {
			w.Header().Set("Connection", "close")
		}
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
	if len(os.Args) > 3 {
		panic(server.ListenAndServeTLS(os.Args[3], os.Args[4]))
	}
	panic(server.ListenAndServe())
}
