/* The load generator of the benchmarks: one WebSocket connection that always has the same number of requests
 * pending, refilled as answers come. Linux only.
 *
 *   load run PORT SERVER_PID PENDING WARM_SECONDS SECONDS batched|separate REQUEST RESULT
 *   load echo
 *
 * REQUEST is the message to send, with a six-digit id after "i": that is overwritten each time. RESULT is what must
 * stand in each answer, followed by a comma or a closing brace. "batched" writes the refills that one read caused in
 * one send(), "separate" makes one send() for each, as browsers do. The outcome is one line of JSON on stdout.
 *
 * "echo" is a server that does as little as one can. A generator that is measured against it shows its own ceiling.
 * It prints its port, serves one connection at a time and ends when its stdin does.
 *
 * Both ends poll their socket instead of sleeping. A server then never pays for waking the generator up, which would
 * cost most to the one that makes the most send() calls; and the generator can tell how much of the time it had
 * nothing to do. That share, not its CPU use, says whether it was the limit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE (4u << 20)
#define FIRST_ID 100000u /* six digits, so that the place of an id in a frame never moves */
#define ID_COUNT 65536u
#define STALL_SECONDS 5.0

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct buffer {
    unsigned char *bytes;
    size_t start, end; /* what is in use */
};

struct frame {
    int opcode;
    unsigned char *payload;
    size_t length;
};

static const unsigned char mask[4] = {0x5a, 0xc3, 0x17, 0x8e};

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static double clock_seconds(clockid_t clock) {
    struct timespec value;
    if (clock_gettime(clock, &value) != 0) fail("cannot read a clock: %s", strerror(errno));
    return (double)value.tv_sec + (double)value.tv_nsec * 1e-9;
}

/* ---- buffers and the socket ---- */

static struct buffer new_buffer(void) {
    struct buffer fresh = {malloc(BUFFER_SIZE), 0, 0};
    if (fresh.bytes == NULL) fail("out of memory");
    return fresh;
}

/* Makes room for `size` more bytes after `end`, and says where they go. */
static unsigned char *room_for(struct buffer *buffer, size_t size) {
    if (buffer->start == buffer->end) {
        buffer->start = buffer->end = 0;
    } else if (buffer->end + size > BUFFER_SIZE) {
        memmove(buffer->bytes, buffer->bytes + buffer->start, buffer->end - buffer->start);
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + size > BUFFER_SIZE) fail("a buffer is full: too much is pending");
    return buffer->bytes + buffer->end;
}

/* Sends what the socket takes now and keeps the rest. */
static void flush(int socket, struct buffer *out) {
    while (out->start < out->end) {
        ssize_t sent = send(socket, out->bytes + out->start, out->end - out->start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            fail("send failed: %s", strerror(errno));
        }
        out->start += (size_t)sent;
    }
}

/* Reads what is there. False: nothing yet. */
static bool fill(int socket, struct buffer *in) {
    unsigned char *place = room_for(in, 1u << 16);
    ssize_t got = recv(socket, place, BUFFER_SIZE - in->end, MSG_DONTWAIT);
    if (got == 0) fail("the other end went away without a Close frame");
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return false;
        fail("recv failed: %s", strerror(errno));
    }
    in->end += (size_t)got;
    return true;
}

/* One byte at a time, so that nothing after the head is taken. */
static void read_http_head(int socket, char *head, size_t size) {
    size_t used = 0;
    while (used < 4 || memcmp(head + used - 4, "\r\n\r\n", 4) != 0) {
        if (used + 1 == size) fail("the HTTP head is too long");
        if (recv(socket, head + used, 1, 0) != 1) fail("the connection ended during the handshake");
        used++;
    }
    head[used] = '\0';
}

static void no_delay(int socket) {
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* ---- frames ---- */

/* Writes a header and says how long it is. With `masked`, the mask is part of it. */
static size_t write_header(unsigned char *place, int opcode, size_t length, bool masked) {
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
        fail("messages of 64 KiB and more are not supported");
    }
    if (masked) {
        memcpy(place + size, mask, 4);
        size += 4;
    }
    return size;
}

static void apply_mask(unsigned char *payload, size_t length, const unsigned char key[4]) {
    for (size_t at = 0; at < length; at++) payload[at] ^= key[at & 3];
}

/* Takes one whole frame out of the buffer, unmasked in place. False: more bytes are needed. */
static bool next_frame(struct buffer *in, struct frame *frame) {
    unsigned char *bytes = in->bytes + in->start;
    size_t available = in->end - in->start, header = 2;
    if (available < 2) return false;
    if ((bytes[0] & 0xf0) != 0x80) fail("a fragmented or compressed message came");
    size_t length = bytes[1] & 0x7f;
    bool masked = (bytes[1] & 0x80) != 0;
    if (length == 127) fail("a message of 64 KiB or more came");
    if (length == 126) {
        if (available < 4) return false;
        length = (size_t)bytes[2] << 8 | bytes[3];
        header = 4;
    }
    if (masked) header += 4;
    if (available < header + length) return false;
    frame->opcode = bytes[0] & 0x0f;
    frame->payload = bytes + header;
    frame->length = length;
    if (masked) apply_mask(frame->payload, length, bytes + header - 4);
    in->start += header + length;
    return true;
}

static void append_frame(struct buffer *out, int opcode, const unsigned char *payload, size_t length, bool masked) {
    unsigned char *place = room_for(out, length + 8);
    size_t header = write_header(place, opcode, length, masked);
    memcpy(place + header, payload, length);
    if (masked) apply_mask(place + header, length, mask);
    out->end += header + length;
}

/* ---- the generator ---- */

struct load {
    int socket;
    struct buffer in, out;
    bool separate;
    unsigned char *request; /* a whole masked frame */
    size_t request_size, header_size, id_offset;
    const char *result;
    size_t result_size;
    bool pending[ID_COUNT];
    uint32_t next_id, pending_count;
    uint64_t answers, wrong, reads;
};

static int dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to port %d: %s", port, strerror(errno));
    no_delay(connection);
    char head[8192];
    int size = snprintf(head, sizeof head,
                        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        port);
    if (send(connection, head, (size_t)size, MSG_NOSIGNAL) != size) fail("cannot send the handshake");
    read_http_head(connection, head, sizeof head);
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0) fail("the server refused the upgrade: %s", head);
    return connection;
}

static void prepare(struct load *load, const char *request) {
    size_t length = strlen(request);
    const char *key = strstr(request, "\"i\":");
    if (key == NULL) fail("the request has no id");
    load->request = malloc(length + 8);
    if (load->request == NULL) fail("out of memory");
    load->header_size = write_header(load->request, TEXT, length, true);
    load->id_offset = (size_t)(key - request) + 4;
    memcpy(load->request + load->header_size, request, length);
    apply_mask(load->request + load->header_size, length, mask);
    load->request_size = load->header_size + length;
}

static void append_request(struct load *load) {
    while (load->pending[load->next_id]) load->next_id = (load->next_id + 1) % ID_COUNT;
    uint32_t slot = load->next_id, digits = FIRST_ID + slot;
    load->pending[slot] = true;
    load->next_id = (slot + 1) % ID_COUNT;
    load->pending_count++;
    for (size_t place = load->id_offset + 6; place-- > load->id_offset; digits /= 10)
        load->request[load->header_size + place] = (unsigned char)(('0' + digits % 10) ^ mask[place & 3]);
    memcpy(room_for(&load->out, load->request_size), load->request, load->request_size);
    load->out.end += load->request_size;
    if (load->separate) flush(load->socket, &load->out);
}

/* Checks one answer: the id of a pending request, and the right result. True: a request may take its place. */
static bool take_answer(struct load *load, const unsigned char *text, size_t length) {
    const unsigned char *end = text + length;
    const unsigned char *key = memmem(text, length, "\"i\":", 4);
    const unsigned char *digit = key == NULL ? end : key + 4;
    uint32_t id = 0;
    for (; digit < end && *digit >= '0' && *digit <= '9' && id < 1000000; digit++)
        id = id * 10 + (uint32_t)(*digit - '0');
    if (id < FIRST_ID || id >= FIRST_ID + ID_COUNT || !load->pending[id - FIRST_ID]) {
        load->wrong++;
        return false;
    }
    load->pending[id - FIRST_ID] = false;
    load->pending_count--;
    load->answers++;
    /* Searched by its beginning, then compared: searching for a long string would cost more than all the rest. */
    size_t beginning = load->result_size < 6 ? load->result_size : 6;
    const unsigned char *found = memmem(text, length, load->result, beginning);
    const unsigned char *after = found == NULL ? end : found + load->result_size;
    if (after >= end || memcmp(found, load->result, load->result_size) != 0 || (*after != ',' && *after != '}'))
        load->wrong++;
    return true;
}

static void take_frames(struct load *load, bool refill) {
    struct frame frame;
    load->reads++;
    while (next_frame(&load->in, &frame)) {
        if (frame.opcode == TEXT) {
            if (take_answer(load, frame.payload, frame.length) && refill) append_request(load);
        } else if (frame.opcode == PING) {
            append_frame(&load->out, PONG, frame.payload, frame.length, true);
        } else if (frame.opcode == CLOSE) {
            fail("the server closed the connection");
        }
    }
    flush(load->socket, &load->out);
}

/* Says goodbye and waits for the end, so that no server has an abnormal closure to report. */
static void hang_up(struct load *load) {
    struct timeval patience = {.tv_sec = 2};
    char rest[4096];
    setsockopt(load->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    append_frame(&load->out, CLOSE, (const unsigned char *)"\x03\xe8", 2, true);
    flush(load->socket, &load->out);
    while (recv(load->socket, rest, sizeof rest, 0) > 0) continue;
    close(load->socket);
}

static int run(char **arguments) {
    static struct load load;
    clockid_t server_clock;
    uint32_t pending = (uint32_t)atoi(arguments[2]);
    double warm = atof(arguments[3]), seconds = atof(arguments[4]);
    if (pending < 1 || pending > ID_COUNT / 2) fail("PENDING must be from 1 to %u", ID_COUNT / 2);
    if (clock_getcpuclockid((pid_t)atoi(arguments[1]), &server_clock) != 0)
        fail("cannot see the CPU time of process %s", arguments[1]);
    load.in = new_buffer();
    load.out = new_buffer();
    load.separate = strcmp(arguments[5], "separate") == 0;
    load.result = arguments[7];
    load.result_size = strlen(load.result);
    prepare(&load, arguments[6]);
    load.socket = dial(atoi(arguments[0]));
    for (uint32_t count = 0; count < pending; count++) append_request(&load);
    flush(load.socket, &load.out);

    enum { WARMING, MEASURING, DRAINING } phase = WARMING;
    double now = clock_seconds(CLOCK_MONOTONIC), next = now + warm, last_data = now;
    double began = 0, took = 0, server = 0, idle = 0, idle_before = 0;
    uint64_t answers = 0, reads = 0;
    bool waiting = false;
    while (phase != DRAINING || load.pending_count > 0) {
        bool data = fill(load.socket, &load.in);
        now = clock_seconds(CLOCK_MONOTONIC);
        if (data) {
            if (waiting) idle += now - last_data;
            take_frames(&load, phase != DRAINING);
            waiting = false;
        } else {
            /* last_data is when waiting began: the moment of the first empty read. */
            if (!waiting) last_data = now;
            waiting = true;
            flush(load.socket, &load.out);
            if (now - last_data > STALL_SECONDS) {
                if (phase == DRAINING) break;
                fail("no answer for %.0f s, with %" PRIu32 " requests pending", STALL_SECONDS, load.pending_count);
            }
        }
        if (phase == DRAINING || now < next) continue;
        double idle_now = idle + (waiting ? now - last_data : 0);
        if (phase == WARMING) {
            phase = MEASURING;
            began = now;
            next = now + seconds;
            server = clock_seconds(server_clock);
            idle_before = idle_now;
            answers = load.answers;
            reads = load.reads;
        } else {
            phase = DRAINING;
            took = now - began;
            server = clock_seconds(server_clock) - server;
            idle_before = idle_now - idle_before;
            answers = load.answers - answers;
            reads = load.reads - reads;
        }
    }
    uint32_t unanswered = load.pending_count;
    hang_up(&load);
    printf("{\"answers\":%" PRIu64 ",\"seconds\":%.6f,\"wrong\":%" PRIu64 ",\"unanswered\":%" PRIu32
           ",\"server_cpu\":%.4f,\"load_busy\":%.4f,\"answers_per_read\":%.2f}\n",
           answers, took, load.wrong, unanswered, server / took, 1 - idle_before / took,
           reads == 0 ? 0.0 : (double)answers / (double)reads);
    return 0;
}

/* ---- the smallest server ---- */

static void echo_one(int connection) {
    static struct buffer in, out;
    char head[8192];
    static const char reply[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                "Connection: Upgrade\r\n\r\n"; /* our generator does not check the accept key */
    if (in.bytes == NULL) {
        in = new_buffer();
        out = new_buffer();
    }
    in.start = in.end = out.start = out.end = 0;
    no_delay(connection);
    read_http_head(connection, head, sizeof head);
    if (send(connection, reply, sizeof reply - 1, MSG_NOSIGNAL) < 0) fail("cannot answer the handshake");
    for (bool open = true; open;) {
        struct frame frame;
        if (fill(connection, &in)) {
            while (open && next_frame(&in, &frame)) {
                append_frame(&out, frame.opcode, frame.payload, frame.length, false);
                open = frame.opcode != CLOSE;
            }
        }
        flush(connection, &out);
    }
    close(connection);
}

static int echo(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 4) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        fail("cannot listen: %s", strerror(errno));
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct pollfd events[2] = {{.fd = listener, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    while (poll(events, 2, -1) > 0 && events[1].revents == 0) echo_one(accept(listener, NULL, NULL));
    return 0;
}

int main(int count, char **arguments) {
    if (count == 10 && strcmp(arguments[1], "run") == 0) return run(arguments + 2);
    if (count == 2 && strcmp(arguments[1], "echo") == 0) return echo();
    fputs("usage: load run PORT SERVER_PID PENDING WARM_SECONDS SECONDS batched|separate REQUEST RESULT\n"
          "       load echo\n",
          stderr);
    return 2;
}
