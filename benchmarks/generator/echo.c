/* A server that does as little as one can: a generator that is measured against it shows its own ceiling.
 *
 * It sends each message back; what comes on a path that begins with /broadcast goes to every connection on such a path.
 * It prints its port, and ends when its stdin does. It polls instead of sleeping while it has connections. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 512

struct served {
    int socket;
    bool broadcasts;
    size_t place; /* among all */
    struct buffer in, out;
};

static struct served **all;
static size_t all_count, all_size;

static void keep(struct served *one) {
    if (all_count == all_size) {
        all_size = all_size ? 2 * all_size : 64;
        all = realloc(all, all_size * sizeof *all);
        if (all == NULL) fail("out of memory");
    }
    one->place = all_count;
    all[all_count++] = one;
}

static void drop(struct served *one) {
    all[one->place] = all[--all_count];
    all[one->place]->place = one->place;
    close(one->socket);
    free(one->in.bytes);
    free(one->out.bytes);
    free(one);
}

static void accept_one(int listener, int poll) {
    static const char reply[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                "Connection: Upgrade\r\n\r\n"; /* our generator does not check the accept key */
    char head[8192];
    struct served *one = calloc(1, sizeof *one);
    if (one == NULL) fail("out of memory");
    one->socket = accept(listener, NULL, NULL);
    if (one->socket < 0) fail("cannot accept: %s", strerror(errno));
    no_delay(one->socket);
    read_http_head(one->socket, head, sizeof head);
    one->broadcasts = strncmp(head, "GET /broadcast", 14) == 0;
    if (send(one->socket, reply, sizeof reply - 1, MSG_NOSIGNAL) < 0) fail("cannot answer the handshake");
    no_blocking(one->socket);
    keep(one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    epoll_ctl(poll, EPOLL_CTL_ADD, one->socket, &event);
}

static void answer(struct served *one, struct frame *frame) {
    if (!one->broadcasts || frame->opcode == CLOSE) {
        append_frame(&one->out, frame->opcode, frame->payload, frame->length, false);
        return;
    }
    for (size_t at = 0; at < all_count; at++) {
        append_frame(&all[at]->out, frame->opcode, frame->payload, frame->length, false);
        flush(all[at]->socket, &all[at]->out);
    }
}

/* False: the connection is over. */
static bool read_one(struct served *one) {
    struct buffer seen;
    int got = read_more(one->socket, &one->in, &seen);
    if (got <= 0) return got == 0;
    struct frame frame;
    bool open = true;
    while (open && next_frame(&seen, &frame)) {
        answer(one, &frame);
        open = frame.opcode != CLOSE;
    }
    keep_rest(&one->in, &seen);
    bool sent = flush(one->socket, &one->out);
    return open && sent;
}

int serve_echo(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 4096) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        fail("cannot listen: %s", strerror(errno));
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    static int on_listener, on_stdin;
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = &on_listener};
    struct epoll_event ending = {.events = EPOLLIN, .data.ptr = &on_stdin};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &listening);
    epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &ending);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, all_count > 0 ? 0 : -1);
        for (int at = 0; at < count; at++) {
            if (events[at].data.ptr == &on_stdin) return 0;
            if (events[at].data.ptr == &on_listener) {
                accept_one(listener, poll);
            } else if (!read_one(events[at].data.ptr)) {
                drop(events[at].data.ptr);
            }
        }
        /* What a socket did not take at once: few connections ever have some. */
        if (count == 0)
            for (size_t at = 0; at < all_count; at++) flush(all[at]->socket, &all[at]->out);
    }
}
