#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define READ_SIZE (1u << 20)

const unsigned char mask[4] = {0x5a, 0xc3, 0x17, 0x8e};

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

double seconds_now(void) {
    struct timespec value;
    clock_gettime(CLOCK_MONOTONIC, &value);
    return (double)value.tv_sec + (double)value.tv_nsec * 1e-9;
}

unsigned char *room_for(struct buffer *buffer, size_t size) {
    if (buffer->start == buffer->end) {
        buffer->start = buffer->end = 0;
    } else if (buffer->end + size > buffer->size && buffer->start > 0) {
        memmove(buffer->bytes, buffer->bytes + buffer->start, buffer->end - buffer->start);
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + size > buffer->size) {
        buffer->size = 2 * (buffer->end + size);
        buffer->bytes = realloc(buffer->bytes, buffer->size);
        if (buffer->bytes == NULL) fail("out of memory");
    }
    return buffer->bytes + buffer->end;
}

void append(struct buffer *buffer, const void *bytes, size_t size) {
    memcpy(room_for(buffer, size), bytes, size);
    buffer->end += size;
}

bool flush(int socket, struct buffer *out) {
    while (out->start < out->end) {
        ssize_t sent = send(socket, out->bytes + out->start, out->end - out->start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN || errno == EINTR;
        out->start += (size_t)sent;
    }
    return true;
}

size_t write_header(unsigned char *place, int opcode, size_t length, bool masked) {
    unsigned char bit = masked ? 0x80 : 0;
    size_t size = 2;
    place[0] = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        place[1] = (unsigned char)(bit | length);
    } else if (length < 65536) {
        place[1] = bit | 126;
        place[2] = (unsigned char)(length >> 8);
        place[3] = (unsigned char)length;
        size = 4;
    } else {
        place[1] = bit | 127;
        for (int at = 0; at < 8; at++) place[2 + at] = (unsigned char)((uint64_t)length >> (56 - 8 * at));
        size = 10;
    }
    if (masked) {
        memcpy(place + size, mask, 4);
        size += 4;
    }
    return size;
}

void append_frame(struct buffer *out, int opcode, const void *payload, size_t length, bool masked) {
    unsigned char *place = room_for(out, length + 14);
    size_t header = write_header(place, opcode, length, masked);
    memcpy(place + header, payload, length);
    if (masked) apply_mask(place + header, length, mask);
    out->end += header + length;
}

void apply_mask(unsigned char *payload, size_t length, const unsigned char key[4]) {
    uint64_t wide, twice;
    uint32_t once;
    size_t at = 0;
    memcpy(&once, key, 4);
    twice = (uint64_t)once << 32 | once;
    for (; at + 8 <= length; at += 8) {
        memcpy(&wide, payload + at, 8);
        wide ^= twice;
        memcpy(payload + at, &wide, 8);
    }
    for (; at < length; at++) payload[at] ^= key[at & 3];
}

bool next_frame(struct buffer *in, struct frame *frame) {
    unsigned char *bytes = in->bytes + in->start;
    size_t available = in->end - in->start, header = 2;
    if (available < 2) return false;
    if ((bytes[0] & 0xf0) != 0x80) fail("a fragmented or compressed message came");
    size_t length = bytes[1] & 0x7f;
    bool masked = (bytes[1] & 0x80) != 0;
    if (length == 126) {
        header = 4;
        if (available < header) return false;
        length = (size_t)bytes[2] << 8 | bytes[3];
    } else if (length == 127) {
        header = 10;
        if (available < header) return false;
        length = 0;
        for (int at = 2; at < 10; at++) length = length << 8 | bytes[at];
    }
    if (masked) header += 4;
    if (available < header || available - header < length) return false;
    frame->opcode = bytes[0] & 0x0f;
    frame->payload = bytes + header;
    frame->length = length;
    if (masked) apply_mask(frame->payload, length, bytes + header - 4);
    in->start += header + length;
    return true;
}

void no_delay(int socket) {
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void no_blocking(int socket) { fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK); }

int read_more(int socket, struct buffer *kept, struct buffer *seen) {
    static unsigned char shared[READ_SIZE];
    bool alone = kept->start == kept->end;
    unsigned char *place = alone ? shared : room_for(kept, READ_SIZE);
    ssize_t got = recv(socket, place, READ_SIZE, MSG_DONTWAIT);
    if (got == 0) return -1;
    if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (alone) {
        *seen = (struct buffer){shared, 0, (size_t)got, READ_SIZE};
    } else {
        kept->end += (size_t)got;
        *seen = *kept;
    }
    return 1;
}

void keep_rest(struct buffer *kept, const struct buffer *seen) {
    if (seen->bytes == kept->bytes) {
        kept->start = seen->start;
    } else if (seen->start < seen->end) {
        append(kept, seen->bytes + seen->start, seen->end - seen->start);
    }
}

void read_http_head(int socket, char *head, size_t size) {
    for (;;) {
        ssize_t seen = recv(socket, head, size - 1, MSG_PEEK);
        if (seen <= 0) fail("the connection ended during the handshake, or nothing came: %s", strerror(errno));
        head[seen] = '\0';
        char *end = memmem(head, (size_t)seen, "\r\n\r\n", 4);
        if (end == NULL && (size_t)seen == size - 1) fail("the HTTP head is too long");
        if (end == NULL) continue;
        if (recv(socket, head, (size_t)(end + 4 - head), 0) != end + 4 - head) fail("cannot read the HTTP head");
        end[4] = '\0';
        return;
    }
}
