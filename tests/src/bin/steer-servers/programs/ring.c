/*
 * An HTTP server on one io_uring: a multishot accept, and the read, write and close of each connection.
 * Without an address it tells whether a ring can be had.
 */
#include <errno.h>
#include <liburing.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum step { ACCEPT, READ, WRITE, CLOSE };

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
static struct io_uring ring;
/* Nobody looks at requests: all are read to the same place, in one piece, as a short one arrives. */
static char request[1024];

static void fail(const char *what, int error)
{
	fprintf(stderr, "%s: %s (errno %d)\n", what, strerror(error), error);
	exit(1);
}

static void queue(enum step step, int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (!sqe) {
		io_uring_submit(&ring);
		sqe = io_uring_get_sqe(&ring);
	}
	switch (step) {
	case ACCEPT: io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, 0); break;
	case READ: io_uring_prep_recv(sqe, fd, request, sizeof(request), 0); break;
	case WRITE: io_uring_prep_send(sqe, fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL); break;
	case CLOSE: io_uring_prep_close(sqe, fd); break;
	}
	io_uring_sqe_set_data64(sqe, (__u64)fd << 2 | step);
}

static int listen_at(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM }, *address;
	int fd, one = 1;

	if (getaddrinfo(host, port, &hints, &address))
		fail("the address", EINVAL);
	fd = socket(address->ai_family, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, address->ai_addr, address->ai_addrlen) || listen(fd, SOMAXCONN))
		fail("listening", errno);
	return fd;
}

/* What follows a step that is done. */
static void go_on(const struct io_uring_cqe *cqe)
{
	enum step step = cqe->user_data & 3;
	int fd = cqe->user_data >> 2;

	switch (step) {
	case ACCEPT:
		if (cqe->res < 0)
			fail("accepting", -cqe->res);
		queue(READ, cqe->res);
		if (!(cqe->flags & IORING_CQE_F_MORE))
			queue(ACCEPT, fd);
		break;
	case READ: queue(cqe->res > 0 ? WRITE : CLOSE, fd); break;
	case WRITE: queue(CLOSE, fd); break;
	case CLOSE: break;
	}
}

int main(int count, char **words)
{
	int error = io_uring_queue_init(256, &ring, 0);

	if (error < 0)
		fail("io_uring_setup", -error);
	if (count < 3)
		return 0;
	queue(ACCEPT, listen_at(words[1], words[2]));
	for (;;) {
		struct io_uring_cqe *cqe;
		unsigned int head, seen = 0;

		error = io_uring_submit_and_wait(&ring, 1);
		if (error < 0 && error != -EINTR)
			fail("io_uring_enter", -error);
		io_uring_for_each_cqe(&ring, head, cqe) {
			go_on(cqe);
			seen++;
		}
		io_uring_cq_advance(&ring, seen);
	}
}
