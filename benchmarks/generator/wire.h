/* What the load generator and the smallest server share: growing buffers, sockets that never block, WebSocket frames. */
#ifndef WIRE_H
#define WIRE_H

#define _GNU_SOURCE
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

struct buffer {
    unsigned char *bytes;
    size_t start, end, size; /* what is in use, and what there is */
};

struct frame {
    int opcode;
    unsigned char *payload;
    size_t length;
};

extern const unsigned char mask[4];

void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
double seconds_now(void);

/* Makes room for `size` more bytes after `end`, and says where they go. */
unsigned char *room_for(struct buffer *buffer, size_t size);
void append(struct buffer *buffer, const void *bytes, size_t size);

/* Sends what the socket takes now and keeps the rest. False: the other end is gone. */
bool flush(int socket, struct buffer *out);

/* Writes the header of a client's (masked) or a server's frame and says how long it is, at most 14 bytes. */
size_t write_header(unsigned char *place, int opcode, size_t length, bool masked);
void append_frame(struct buffer *out, int opcode, const void *payload, size_t length, bool masked);

/* Takes one whole frame out of the buffer, unmasked in place. False: more is needed. */
bool next_frame(struct buffer *in, struct frame *frame);

void apply_mask(unsigned char *payload, size_t length, const unsigned char key[4]);

void no_delay(int socket);
void no_blocking(int socket);

/* Reads what is there, into `kept` behind what that has, or else into a place that all connections share. `seen` is then
 * where frames can be taken from; keep_rest() puts what is left of it into `kept`. -1: the end; 0: nothing yet. */
int read_more(int socket, struct buffer *kept, struct buffer *seen);
void keep_rest(struct buffer *kept, const struct buffer *seen);

/* Reads up to the empty line, and nothing after it. */
void read_http_head(int socket, char *head, size_t size);

int serve_echo(void);

#endif
