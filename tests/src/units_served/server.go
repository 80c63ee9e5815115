package main

import (
	"context"
	"net/http"
	"os/signal"
	"syscall"
)

func main() {
	server := http.Server{Addr: ":8083", Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		answer.Write([]byte("hello\n"))
	})}
	ended, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	go server.ListenAndServe()
	<-ended.Done()
	server.Shutdown(context.Background())
}
