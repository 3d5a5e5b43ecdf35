// A reverse proxy whose connections are net/http's: UPSTREAM SOCKETS keep|close
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
)

func main() {
	upstream, err := url.Parse(os.Args[1])
	if err != nil {
		panic(err)
	}
	sockets, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.Transport = &http.Transport{
		MaxConnsPerHost:     sockets,
		MaxIdleConnsPerHost: sockets,
		DisableKeepAlives:   os.Args[3] != "keep",
		DisableCompression:  true,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	panic(http.Serve(listener, proxy))
}
